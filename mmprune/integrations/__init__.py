"""Adapters for other codebases that a user may have: one file or folder each, imported only by who asks for it.

Open the file of the codebase first; ``record.py`` is what those of timm and transformers share. Stands on everything
but ``engine``.
"""
