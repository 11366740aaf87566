"""Units of a multiple of a divisor: padded with zeros for deployment, widened with fresh channels for training."""
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..arguments import whole_number
from ..units.mutator import ChannelMutator
from ..units.surgery import padding_blocks
from ..units.unit import ChannelUnit


def check_divisor(divisor: Any) -> None:
    """Raise ValueError unless the divisor is a whole number of at least 1."""
    whole_number('divisor', divisor, must='channels are made a multiple of it, so it must be 1 or more and whole')


def divisible_sets(unit: ChannelUnit, divisor: int) -> int:
    """Return the least number of sets, not under the present one, whose channels are a multiple of the divisor."""
    sets = unit.num_sets
    while sets * unit.multiplicity % divisor:
        sets += 1
    return sets


def pad(mutator: ChannelMutator, divisor: int) -> None:
    """Pad every unit with zero channels to a multiple of the divisor; the function of the model is unchanged.

    Dropped channels come back as zeros first; beyond the original width only what the multiple needs is added.
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
    """Return the mask with dropped sets added, the first ones first, until there are so many."""
    mask = unit.kept.copy()
    mask[np.flatnonzero(~mask)[:sets - int(mask.sum())]] = True
    return mask


def widen(mutator: ChannelMutator, divisor: int) -> None:
    """Widen units towards a multiple of the divisor, never past the original width, for further training.

    Fresh channels get newly initialised producers and unit batch norms; their consumers' columns are zero, so that the
    outputs are unchanged at first and the channels can be learnt.
    """
    masks = {unit.name: _revive(unit, min(divisible_sets(unit, divisor), len(unit.kept)))
             for unit in mutator.units}
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
    """Return (tensor, role, axis) -> present indices of fresh channels, for all axes but columns and for columns."""
    found: List[Fresh] = [{}, {}]
    originals: Dict[Tuple[str, str, int], List[np.ndarray]] = {}
    for unit in mutator.units:
        for member in unit.channels.members:
            key = (member.axis.tensor, member.axis.role, member.axis.dim)
            originals.setdefault(key, []).append(member.index[fresh[unit.name]].reshape(-1))
    for key, parts in originals.items():
        index = np.concatenate(parts)
        if len(index):
            layout = mutator.layout(key[0])[key[2]]
            found[key[1] == 'in'][key] = torch.from_numpy(np.searchsorted(layout, index))
    return found[0], found[1]


def _initialise(tensor: Tensor, name: str, role: str, dim: int, index: Tensor) -> None:
    index = index.to(tensor.device)
    if role == 'affine':
        one = name.endswith(('running_var', '.weight'))
        tensor.index_fill_(dim, index, 1.0 if one else 0.0)
        return
    scratch = torch.empty_like(tensor)
    nn.init.kaiming_normal_(scratch, mode='fan_out', nonlinearity='relu')
    tensor.index_copy_(dim, index, scratch.index_select(dim, index))
