"""Repair in closed form: solve again what reads the channels that were pruned, from a few hundred images.

Stands on ``units`` and ``models``; used by ``criteria``, ``pruning`` and the schedules of ``engine``.
"""
