"""The structure of a pruned model in a json file, and a fresh model cut to it."""
import os
from typing import Any, Mapping, Optional, Union

import numpy as np
from torch import nn

from ..arguments import typed
from ..units.structure import Structure, StructureError, blamed_on, read_structure, write_structure
from .example import mutator_of
from .pruner import Pruner


def save_structure(pruner: Pruner, path: Union[str, 'os.PathLike[str]'], kept: bool = False) -> None:
    """Write the structure of a cut model, without its weights.

    Args:
        pruner (Pruner): After :meth:`Pruner.cut`.
        path (str): The json file. It appears whole or not at all.
        kept (bool): Write which channels stay instead of how many, to take the same ones from a dense model.

    Raises:
        StructureError: The model is masked only.
    """
    if pruner.is_masked:
        raise StructureError('the model is masked, its structure is the one before: call cut(), then save it')
    channels = {name: np.flatnonzero(vector).tolist() for name, vector in pruner.mutator.kept.items()}
    write_structure(channels if kept else pruner.mutator.structure, path)


@typed
def apply_structure(model: nn.Module, example_inputs: Any, structure: Union[str, 'os.PathLike[str]', Structure],
                    choice: Optional[Mapping[str, Any]] = None, mutate_linear: bool = True) -> nn.Module:
    """Cut a fresh model to a structure and return it, ready to load the pruned weights.

    Args:
        model (nn.Module): The dense model; it is cut in place.
        example_inputs (Tensor, tuple, dict, list or Callable): As for :class:`Pruner`.
        structure (dict or str): Unit name -> how many channels stay (the first ones) or which, or its json file, as
            :func:`save_structure` writes it.
        choice (dict, optional): As when the model was pruned.
        mutate_linear (bool): As when the model was pruned.

    Raises:
        StructureError: The structure cannot be read or does not fit the model; the message says where.
    """
    channels = read_structure(structure)
    mutator = mutator_of(model, example_inputs, choice, mutate_linear, proven=list(channels))
    with blamed_on(structure):
        mutator.apply_structure(channels)
    return model
