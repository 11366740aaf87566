"""Which channels of a model can only be removed together, found by running its forward once.

Open :mod:`.grouping` first: ``build_graph`` traces a model (:mod:`.capture`), ties channels (:mod:`.coupling`) and
returns units and frozen channels (:mod:`.channels`); what each operation does to channels stands in :mod:`.rules`.
Imports nothing of the package but ``version``, ``arguments``, ``files``, ``random_state`` and ``registry``.
"""
