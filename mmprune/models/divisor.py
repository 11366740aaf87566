"""Make widths multiples of a divisor: zero channels for deployment, newly initialised channels for training."""
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..arguments import UserError, whole_number
from ..units.mutator import ChannelMutator
from ..units.surgery import padding_blocks
from ..units.unit import ChannelUnit

#: No kernel wants wider blocks; a unit that is padded to a divisor has at least so many channels.
LARGEST_DIVISOR = 4096


def check_divisor(divisor: Any) -> None:
    """Raise UserError unless the divisor is a whole number of at least 1, and not so large that padding is absurd."""
    whole_number('divisor', divisor, must='channels are made a multiple of it, so it must be 1 or more and whole')
    if divisor > LARGEST_DIVISOR:
        raise UserError(f'divisor is {divisor}; every unit would get so many channels. It must be {LARGEST_DIVISOR} or '
                        'less')


def divisible_sets(unit: ChannelUnit, divisor: int) -> int:
    """Return the least number of sets, at least the present number, whose channels are a multiple of the divisor."""
    sets = unit.num_sets
    while sets * unit.multiplicity % divisor:
        sets += 1
    return sets


def pad(mutator: ChannelMutator, divisor: int) -> None:
    """Pad every unit with zero channels to a multiple of the divisor; outputs do not change.

    Pruned channels return as zeros first; channels beyond the original width are added only if the multiple needs them.
    """
    masks, padding = {}, {}
    for unit in mutator.units:
        wanted = divisible_sets(unit, divisor)
        beyond = max(0, wanted - len(unit.kept))
        if beyond and any(padding_blocks(member.index) is None for member in unit.channels.members):
            print_log(f'{unit.name} interleaves with other units and cannot be padded beyond its original width; '
                      'it is padded to that', logger='current', level=30)
            beyond = 0
        masks[unit.name], padding[unit.name] = _revive(unit, min(wanted, len(unit.kept))), beyond
    mutator.cut(masks, padding=padding)


def _revive(unit: ChannelUnit, sets: int) -> np.ndarray:
    """Return the mask of a unit with its first dropped sets added, up to a number of sets."""
    mask = unit.kept.copy()
    mask[np.flatnonzero(~mask)[:sets - int(mask.sum())]] = True
    return mask


def widen(mutator: ChannelMutator, divisor: int) -> None:
    """Widen units towards a multiple of the divisor, never past the original width, for further training.

    Fresh channels get newly initialised producers and batch norms of scale 1. Their consumers' columns are zero, so
    that outputs do not change at first and the channels can be learnt.
    """
    masks = {unit.name: _revive(unit, min(divisible_sets(unit, divisor), len(unit.kept))) for unit in mutator.units}
    fresh = {unit.name: masks[unit.name] & ~unit.kept for unit in mutator.units}
    mutator.cut(masks)
    rows, columns = _fresh_indices(mutator, fresh)
    tensors = dict([*mutator.model.named_parameters(), *mutator.model.named_buffers()])
    with torch.no_grad():
        for (name, role, dim), index in rows.items():
            _initialise(tensors[name], name, role, dim, index)
        for (name, _, dim), index in columns.items():
            tensors[name].index_fill_(dim, index.to(tensors[name].device), 0.0)


Fresh = Dict[Tuple[str, str, int], Tensor]


def _fresh_indices(mutator: ChannelMutator, fresh: Mapping[str, np.ndarray]) -> Tuple[Fresh, Fresh]:
    """Return (tensor, role, axis) -> present indices of fresh channels, of producers and norms, and of consumers."""
    found: List[Fresh] = [{}, {}]
    originals: Dict[Tuple[str, str, int], List[np.ndarray]] = {}
    for unit in mutator.units:
        for member in unit.channels.members:
            key = (member.axis.tensor, member.axis.role, member.axis.dim)
            originals.setdefault(key, []).append(member.index[fresh[unit.name]].reshape(-1))
    for key, parts in originals.items():
        index = np.concatenate(parts)
        if len(index):
            found[key[1] == 'in'][key] = torch.from_numpy(np.searchsorted(mutator.layout(key[0])[key[2]], index))
    return found[0], found[1]


def _initialise(tensor: Tensor, name: str, role: str, dim: int, index: Tensor) -> None:
    """Initialise the channels of an index: scales and variances 1, shifts and means 0, weights by Kaiming's method."""
    index = index.to(tensor.device)
    if role == 'affine':
        tensor.index_fill_(dim, index, 1.0 if name.endswith(('running_var', '.weight')) else 0.0)
        return
    scratch = torch.empty_like(tensor)
    nn.init.kaiming_normal_(scratch, mode='fan_out', nonlinearity='relu')
    tensor.index_copy_(dim, index, scratch.index_select(dim, index))
