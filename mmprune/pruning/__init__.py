"""Pruning: how many channels of each unit are removed, and which.

Open ``pruner.py`` first: :class:`Pruner`, the Python API. ``target.py`` states how much is removed, ``search.py`` turns
scores and a target into masks, ``plan.py`` joins both with a criterion; the schedules of ``engine`` use it too. May
import ``criteria`` and what stands before it (report, graph, units, models, deploy, group_fisher), not ``engine``.
"""
