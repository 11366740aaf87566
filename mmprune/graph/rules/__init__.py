"""Rules: what each operation, layer function and module does to the channel labels of its inputs and results.

Open :mod:`.table` first: it has the tables that rules are registered in and the ``Call`` that a rule gets. The other
files fill the tables. Imports what :mod:`mmprune.graph` may import, and of that folder ``label``, ``nested`` and
``tracer``.
"""
