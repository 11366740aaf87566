"""Adapters for other codebases, one file each, imported only where the user has them.

Open the file of the codebase first; ``record.py`` is what they share. Stands on everything but ``engine``.
"""
