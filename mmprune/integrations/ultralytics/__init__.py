"""Ultralytics' YOLO models: pruned and repaired here, finetuned, tested, saved and exported by ultralytics itself.

It must be installed (``pip install ultralytics``); nothing else of mmprune needs it. It is under the AGPL-3.0, which is
about what you build with it; this adapter calls it, and has none of its code. Open ``pruning.py`` first.
"""
from ...arguments import optional_package

optional_package('ultralytics')

from .head import raw_predictions  # noqa: E402  (the line above says what is missing)
from .pruning import Pruned, cut_to, prune  # noqa: E402
from .trainer import TRAINERS, trainer_for  # noqa: E402

__all__ = ['TRAINERS', 'Pruned', 'cut_to', 'prune', 'raw_predictions', 'trainer_for']
