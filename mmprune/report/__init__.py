"""Reports: what a structure and a cut look like, as tables, pictures and checks.

Open ``proof.py`` first: it checks that a cut model computes what the masked dense model computes. ``stages.py`` is a
table, ``unit_picture.py`` and ``structure_picture.py`` draw with what ``figure.py`` and ``lanes.py`` share.
``stage_record.py`` is what ``mmprune compress`` leaves behind, ``page`` the report of it. May import
``units`` and what stands before it (graph, config, models, deploy, group_fisher), not ``criteria``.
"""
