"""Prune while training, by group Fisher information (Liu et al., ICML 2021).

Open ``algorithm.py`` first: a training step, what is recorded in it, and the event that removes channels. Then, in the
order in which an activation meets them, ``ops.py``, ``taps.py``, ``mutator.py`` and ``unit.py``; what a cut does to the
tensors is in ``units/surgery.py`` and ``units/layer.py``. May import ``models``, ``units``, ``graph`` and the ground.
"""
