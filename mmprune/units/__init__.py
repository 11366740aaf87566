"""Units: lists of sets of tied channels, what is kept of them, what they cost, and the surgery that cuts a model.

Open :mod:`.mutator` first: it traces a model, builds its units (:mod:`.unit`), and cuts the model to a structure
(:mod:`.structure`, :mod:`.surgery`); :mod:`.trial` and :mod:`.equivalence` check that a cut is exact.
:mod:`.attention` has the attentions and norms that a transformer runs from the trace on. Imports
:mod:`mmprune.graph` and what that may import, nothing else of the package.
"""
