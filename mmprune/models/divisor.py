"""Make widths multiples of a divisor: zero channels for deployment, newly initialised channels for training."""
from typing import Dict, List, Mapping, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..units.mutator import ChannelMutator
from ..units.surgery import padding_blocks, present_indices
from ..units.unit import ChannelUnit


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
    forgets = mutator.choice.stream == 'kept'
    for unit in mutator.units:
        if forgets and any(member.axis.across for member in unit.channels.members):
            continue  # its norms would count the zeros
        wanted = divisible_sets(unit, divisor)
        beyond = max(0, wanted - len(unit.kept))
        blocks = [padding_blocks(member.index) for member in unit.channels.members]
        if beyond and (unit.channels.part or None in blocks):
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
    that outputs do not change at first and the channels can be learnt. A unit that layers with standardised filters
    read is not widened to all of its channels: a structure with all of them says that these layers are not baked.
    """
    masks = {unit.name: _widened(unit, divisor) for unit in mutator.units}
    fresh = {unit.name: masks[unit.name] & ~unit.kept for unit in mutator.units}
    mutator.cut(masks)
    rows, columns = _fresh_indices(mutator, fresh)
    tensors = dict([*mutator.model.named_parameters(), *mutator.model.named_buffers()])
    with torch.no_grad():
        for (name, role, dim), index in rows.items():
            _initialise(tensors[name], name, role, dim, index)
        for (name, _, dim), index in columns.items():
            tensors[name].index_fill_(dim, index.to(tensors[name].device), 0.0)


def _widened(unit: ChannelUnit, divisor: int) -> np.ndarray:
    mask = _revive(unit, min(divisible_sets(unit, divisor), len(unit.kept)))
    if mask.all() and not unit.kept.all() and any(member.axis.standardised for member in unit.channels.consumers):
        print_log(f'{unit.name} keeps {unit.current_width} channels, and is not widened to all of its {unit.width}: '
                  'layers that standardised their filters read it', logger='current', level=30)
        return unit.kept
    return mask


Fresh = Dict[Tuple[str, str, int], Tensor]


def _fresh_indices(mutator: ChannelMutator, fresh: Mapping[str, np.ndarray]) -> Tuple[Fresh, Fresh]:
    """Return (tensor, role, axis) -> present indices of fresh channels, of producers and norms, and of consumers."""
    found: List[Fresh] = [{}, {}]
    originals: Dict[Tuple[str, str, int], List[np.ndarray]] = {}
    for unit in mutator.units:
        for member in unit.channels.members:
            key = (member.axis.tensor, member.axis.role, member.axis.dim)
            index = present_indices(mutator.layout(key[0])[key[2]], member.index[fresh[unit.name]])
            originals.setdefault(key, []).append(index.reshape(-1))
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
