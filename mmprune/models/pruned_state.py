"""The state dict of a pruned model: checked as a whole before the model is cut to it."""
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..units.kept_state import KEPT
from ..units.mutator import ChannelMutator
from ..units.structure import StructureError
from .checkpoint import check_fit, is_dense
from .checkpoint_file import CheckpointError

#: Where group Fisher's mutator keeps what it has accumulated, a value a set.
SCORES = 'mutator.fisher'


def refuse_mmrazor(state: Mapping[str, Any], path: str, role: str) -> None:
    """Raise CheckpointError for the state dict of a checkpoint of mmrazor; ``role`` is what it is called."""
    if any(key.startswith('mutator.units.') for key in state):
        raise CheckpointError(f'{role}: {path!r} was written by mmrazor; convert it with '
                              'tools/model_converters/from_mmrazor.py')


def masks_of(mutator: ChannelMutator, state: Mapping[str, Any], source: str) -> Optional[Dict[str, np.ndarray]]:
    """Return the structure in the state dict of a pruning algorithm; nothing is changed.

    Args:
        mutator (ChannelMutator): The algorithm's.
        state (dict[str, Any]): The state dict; its keys for the mutator begin with ``mutator.``.
        source (str): What the structure is called in error messages.

    Returns:
        dict or None: Unit name -> kept sets ``ndarray[sets], bool``, without the units that the state dict lacks; None
        without a structure in it.

    Raises:
        StructureError: The structure does not fit the model.
    """
    start = f'mutator.{KEPT}'
    widths = mutator.dense_widths
    vectors = {key[len(start):]: value for key, value in state.items() if key.startswith(start)}
    for name, vector in vectors.items():
        problem = _not_kept(vector, widths.get(name))
        if problem:
            raise StructureError(f'{source}: {name!r} {problem}')
    masks = mutator.masks_from(state, 'mutator.', source)
    for unit in [unit for unit in mutator.all_units if unit.name in (masks or {})]:
        whole, named = int(masks[unit.name].sum()) * unit.multiplicity, int(vectors[unit.name].sum())  # type: ignore
        if whole != named:
            raise StructureError(f'{source}: {unit.name!r} keeps {named} channels, of which {named - whole} without '
                                 f'the rest of their set of {unit.multiplicity}, to which they are tied')
    return masks


def _not_kept(vector: Any, width: Optional[int]) -> Optional[str]:
    """Return why a value is no 0/1 vector over the channels of a unit, or None."""
    if not is_dense(vector) or vector.dtype not in (torch.uint8, torch.bool) or vector.dim() != 1:
        kind = f'{vector.dtype} of shape {tuple(vector.shape)}' if isinstance(vector, Tensor) else type(vector).__name__
        return f'is {kind}, not a vector with 0 or 1 for each channel'
    if width is not None and len(vector) != width:
        return f'has {len(vector)} channels in the file, {width} in the model'
    if width is not None and bool((vector > 1).any()):
        return 'holds more than 0 and 1'
    return None


def check_cut_fit(model: nn.Module, mutator: ChannelMutator, state: Mapping[str, Any],
                  masks: Mapping[str, np.ndarray], source: str) -> None:
    """Check that a state dict will fit a model once it is cut; the model is not changed.

    Args:
        model (nn.Module): The model that the state dict is for, such as a pruning algorithm.
        mutator (ChannelMutator): Cuts it, or a part of it.
        state (dict[str, Any]): The state dict.
        masks (dict[str, ndarray[sets], bool]): What the model will be cut to.
        source (str): What the state dict is called in error messages.

    Raises:
        CheckpointError: A key is missing, or a value has another shape or is of another kind.
    """
    part = dict(mutator.model.state_dict(keep_vars=True))
    gone = {id(part[name]) for name in _removed_names(mutator, masks, list(part))}
    sizes: Dict[int, List[Tuple[int, int]]] = {}  # by tensor: it may have two names
    for (name, dim), size in mutator.surgery.widths_with(masks).items():
        if name in part:
            sizes.setdefault(id(part[name]), []).append((dim, size))
    shapes: Dict[str, List[int]] = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and id(tensor) not in gone:
            shapes[key] = list(tensor.shape)
            for dim, size in sizes.get(id(tensor), []):
                shapes[key][dim] = size
    lacking = {unit.name for unit in mutator.all_units} - set(masks) if masks else set()
    for name in lacking:
        shapes.pop(f'mutator.{KEPT}{name}', None)
    if lacking and SCORES in shapes:  # those units will be recorded no more
        shapes[SCORES] = [sum(map(len, masks.values()))]
    check_fit(model, state, source, shapes)


def leave_lacking_whole(mutator: ChannelMutator, masks: Mapping[str, np.ndarray]) -> None:
    """Let a run go on with the units that its checkpoint has: others are pruned no more."""
    mutator.leave_whole({unit.name: 'the checkpoint does not have it' for unit in mutator.all_units
                         if unit.name not in masks})


def _removed_names(mutator: ChannelMutator, masks: Mapping[str, np.ndarray], names: List[str]) -> List[str]:
    """Return the tensors in the residual blocks of which the masks keep nothing; shortcuts stay."""
    present = {unit.name for unit in mutator.units}
    empty = {name for name, mask in masks.items() if name in present and not mask.any()}
    found = []
    for block in mutator.blocks if empty else []:
        if empty.issuperset(block.units):
            stays = f'{block.module}.{block.shortcut.name}.'
            found += [name for name in names if name.startswith(f'{block.module}.') and not name.startswith(stays)]
    return found
