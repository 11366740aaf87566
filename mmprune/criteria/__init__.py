"""Criteria: how important the channels of a unit are, one file for each paper.

Open ``criterion.py`` first: the base class that every criterion shares. ``calibration.py`` has the data that criteria
look at. May import ``report`` and what stands before it (graph, units, models, deploy, group_fisher), not ``pruning``.
"""
