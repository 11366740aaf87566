"""Schedules: hooks of the Runner that say when a run scores channels and when it cuts them.

Open ``schedule.py`` first: the base class, with the steps that all share. The other files, one for each method, import
the base class, ``engine/runner.py`` and the folders below :mod:`mmprune.engine`.
"""
