"""The masks of mmrazor's pruned checkpoints: which of our channels each of them belongs to.

A mask has a number and a width, but no name. mmrazor numbers, in the order of the forward pass, the channels that a
convolution or linear layer produces and another reads, if only such layers and batch norms hold a value for each;
whether it prunes them or not: those that a linear layer reads have a mask of ones. Where grouped convolutions tie
channels, a mask has an entry for each position in a group, as our sets have.
"""
import difflib
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..graph.channels import CoupledChannels
from ..units.mutator import ChannelMutator
from .checkpoint import CheckpointError

MASK = re.compile(r'mutator\.units\.(\d+)\.mutable_channel\.mask$')
#: The layers whose channels mmrazor can make fewer.
LAYERS = (nn.Conv2d, nn.Linear, _BatchNorm)


def masks_in_order(state: Mapping[str, Any]) -> List[np.ndarray]:
    """Return mmrazor's masks in their order, each ``ndarray[width]`` of bool.

    Args:
        state (dict): The state dict of its pruned checkpoint.

    Raises:
        CheckpointError: It has no masks, or one is missing, holds something else than 0 and 1, or keeps no channel.
    """
    found = {int(match.group(1)): state[key] for key in state for match in [MASK.match(key)] if match}
    if not found:
        raise CheckpointError('source: no key mutator.units.{i}.mutable_channel.mask; it is no pruned checkpoint of '
                              'mmrazor')
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None:
        raise CheckpointError(f'source: mask {missing} is missing; the numbers of its {len(found)} masks go up to '
                              f'{max(found)}. Is the file complete?')
    return [_as_bools(number, found[number]) for number in range(len(found))]


def _as_bools(number: int, mask: Any) -> np.ndarray:
    if not isinstance(mask, torch.Tensor) or not bool(((mask == 0) | (mask == 1)).all()):
        raise CheckpointError(f'source: mask {number} holds something else than 0 and 1')
    if not bool(mask.any()):
        raise CheckpointError(f'source: mask {number} keeps none of its {mask.numel()} channels')
    return np.asarray(mask.reshape(-1) > 0)


def match(mutator: ChannelMutator, masks: Sequence[np.ndarray]) -> List[CoupledChannels]:
    """Return the channels that each mask belongs to, frozen ones among them.

    mmrazor leaves channels out that it cannot follow, such as those of a chunk. Masks that are fewer than the channels
    are matched by order and width, if that leaves no doubt about any mask that prunes.

    Raises:
        CheckpointError: The masks and the channels differ; the message says in which place.
    """
    listed, candidates = numbered(mutator), _produced_and_read(mutator)
    widths = [len(mask) for mask in masks]
    if [channels.num_sets for channels in listed] == widths:
        return listed
    linear = {layer for layer, kind in mutator.complexity.graph.kinds.items() if kind == 'linear'}
    first = _leftmost(masks, candidates, linear)
    mirrored = _leftmost(masks[::-1], candidates[::-1], linear)
    if first is None or mirrored is None:
        raise CheckpointError(f'source: {first_difference(widths, listed)}. Is PRUNE_CONFIG of that model?')
    last = [len(candidates) - 1 - place for place in reversed(mirrored)]
    for number, mask in enumerate(masks):
        if first[number] != last[number] and not mask.all():
            raise CheckpointError(
                f'source: {_counts(widths, listed)}, and it is not clear which are missing: mask {number} '
                f'({_channels(len(mask))}) could be that of {candidates[first[number]].name!r} or of '
                f'{candidates[last[number]].name!r}')
    return [candidates[place] for place in first]


def numbered(mutator: ChannelMutator) -> List[CoupledChannels]:
    """Return the channels that mmrazor has masks for, by its rule, in the order of its masks."""
    may_go = {id(channels) for channels in mutator.complexity.graph.units}
    return [channels for channels in _produced_and_read(mutator) if id(channels) in may_go
            and all(isinstance(mutator.model.get_submodule(member.axis.layer), LAYERS) for member in channels.members)]


def _produced_and_read(mutator: ChannelMutator) -> List[CoupledChannels]:
    """Return all channels with a producer and a consumer, in the order of the forward pass."""
    graph = mutator.complexity.graph
    place = {id(axis): number for number, axis in enumerate(graph.axes)}
    return sorted((channels for channels in [*graph.units, *graph.frozen] if channels.producers and channels.consumers),
                  key=lambda channels: (place[id(channels.first.axis)], int(channels.first.index.min())))


def _leftmost(masks: Sequence[np.ndarray], candidates: Sequence[CoupledChannels],
              linear: Set[str]) -> Optional[List[int]]:
    """Return the first place among the candidates for each mask, in their order; None if they do not all fit.

    What stays here because a linear layer reads it stays in mmrazor too, so that no mask that prunes fits it.
    """
    places: List[int] = []
    stays = [channels.reason is not None and any(member.axis.layer in linear for member in channels.consumers)
             for channels in candidates]
    for mask in masks:
        start = places[-1] + 1 if places else 0
        fitting = (place for place in range(start, len(candidates))
                   if candidates[place].num_sets == len(mask) and (mask.all() or not stays[place]))
        place = next(fitting, None)
        if place is None:
            return None
        places.append(place)
    return places


def first_difference(widths: Sequence[int], listed: Sequence[CoupledChannels]) -> str:
    """Say where the masks of a checkpoint and ours begin to differ.

    Args:
        widths (sequence[int]): Widths of the checkpoint's masks.
        listed (sequence[CoupledChannels]): The channels that should have masks.
    """
    sets = [channels.num_sets for channels in listed]
    if len(sets) == len(widths):
        place = next(place for place, pair in enumerate(zip(sets, widths)) if pair[0] != pair[1])
        return (f'mask {place} is for {_channels(widths[place])}, and {listed[place].name!r}, which is number {place} '
                f'here, has {_sets(listed[place])}')
    changes = difflib.SequenceMatcher(None, sets, widths, autojunk=False).get_opcodes()
    _, ours, ours_end, theirs, _ = next(change for change in changes if change[0] != 'equal')
    counts = _counts(widths, listed)
    if ours < ours_end:
        return f'{counts}: none is for {listed[ours].name!r} ({_sets(listed[ours])}), which is number {ours} here'
    after = f'after {listed[ours - 1].name!r}' if ours else 'at the beginning'
    return f'{counts}: mask {theirs} ({_channels(widths[theirs])}) is for nothing here; it comes {after}'


def _counts(widths: Sequence[int], listed: Sequence[CoupledChannels]) -> str:
    return f'it has {_number(len(widths), "mask")}, and this model should have {len(listed)}'


def _channels(count: int) -> str:
    return _number(count, 'channel')


def _number(count: int, what: str) -> str:
    return f'{count} {what}{"s" * (count != 1)}'


def _sets(channels: CoupledChannels) -> str:
    tied = channels.width // channels.num_sets
    return _channels(channels.num_sets) if tied == 1 else f'{channels.num_sets} sets of {tied} tied channels'


def assign(mutator: ChannelMutator, masks: Sequence[np.ndarray]) -> Dict[str, np.ndarray]:
    """Give mmrazor's masks to our units.

    Returns:
        dict[str, ndarray[sets], bool]: Unit name -> which sets stay: all of them where there is no mask.

    Raises:
        CheckpointError: The masks are of other channels, or prune some that stay here.
    """
    result: Dict[str, np.ndarray] = {unit.name: np.ones(len(unit.kept), dtype=bool) for unit in mutator.units}
    for number, (channels, mask) in enumerate(zip(match(mutator, masks), masks)):
        if channels.reason is None:
            result[channels.name] = mask
        elif not mask.all():
            raise CheckpointError(f'source: mask {number} prunes {channels.name!r}, which stays here: '
                                  f'{channels.reason}')
    return result


def report(mutator: ChannelMutator, masks: Sequence[np.ndarray]) -> str:
    """Say in one line which masks are of channels that stay, and which units have no mask."""
    matched = match(mutator, masks)
    staying = [channels.name for channels in matched if channels.reason is not None]
    having = {id(channels) for channels in matched}
    without = [unit.name for unit in mutator.units if id(unit.channels) not in having]
    text = _number(len(masks), 'mask')
    if staying:
        text += f', {len(staying)} of them of channels that stay in both ({_listing(staying)})'
    if without:
        text += f'; units without a mask stay whole: {_listing(without)}'
    return text


def _listing(names: Sequence[str]) -> str:
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
