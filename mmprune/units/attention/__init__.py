"""Attention and the norms around it, in modules whose heads, dimensions and stream can be cut.

A transformer's own modules take sizes from shapes and attributes in many ways. From the trace on, those of known
classes run the forward that is written here: the same module objects, parameters, keys and hooks, of another class.
Open :mod:`.product` and :mod:`.taking_over` first; the other files are one a library or kind. Imports nothing else of
the package.
"""
