"""Runtimes that models are deployed to, each by its registered name in ``mmprune.registry.RUNTIMES``.

Open ``runtime.py`` first: what a runtime can do. One file a runtime; ``mmprune.deploy.timing`` times models in them.
"""
