"""Milliseconds of a pruned model: measure a runtime, tabulate its layers, solve for the widths that meet a time.

Open ``table.py`` first: what each layer takes at every width of what it reads and writes. ``profiled.py`` measures
whole networks for it, ``solver.py`` turns scores and a time into widths, ``meter.py`` is what ``runtime=dict(...)`` of
a config becomes. Stands on ``units``, ``models`` and the runtimes of ``deploy``; read by ``group_fisher``, ``pruning``
and ``report``.
"""
