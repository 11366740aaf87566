"""Adapters for other codebases, one file each, imported only where the user has them.

Open the file of the codebase first; ``record.py`` is what they share. Stands on everything but ``engine``.
"""
"""Adapters for other codebases that a user may have installed: one file or folder each, imported only by who asks."""
