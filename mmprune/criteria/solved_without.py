"""A model without some channels for the time of a block, with the layers that read them solved again."""
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping, Set

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.watching import watched
from ..repair.moments import LeastSquares, Moments
from ..units.mutator import ChannelMutator
from ..units.weight_norm import effective
from .inputs import reading

#: Strength of the ridge, as a share of each input's variance.
RIDGE = 1e-3


@contextmanager
def solved_without(mutator: ChannelMutator, masks: Mapping[str, np.ndarray],
                  moments: Mapping[str, Moments]) -> Iterator[Set[str]]:
    """Let a model be masked for the time of a block; then all is as it was, bit by bit.

    Args:
        mutator (ChannelMutator): Of the model, which is in eval mode.
        masks (dict[str, ndarray[sets], bool]): Unit name -> which sets stay.
        moments (dict[str, Moments]): Layer -> moments of what it reads. Of layers that read what goes, those that are
            here make up for it, by least squares; the others go without it.

    Yields:
        set[str]: The modules that compute something else.
    """
    surgery = mutator.surgery
    dropped = surgery.dropped(masks)
    owners = [mutator.model.get_submodule(name.rpartition('.')[0]) for name, _ in dropped]
    tensors = {id(tensor): tensor for module in owners
               for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]}
    changed = {name: module for name, module in mutator.model.named_modules() if any(
        id(tensor) in tensors for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)])}
    undo = surgery.bake(dropped)
    saved = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    try:
        readers = _readers(mutator, masks, moments)
        weights = {name: effective(mutator.model, f'{name}.weight').detach().clone() for name in readers}
        surgery.mask(masks)
        offsets = {}
        for name, module in readers.items():
            offsets[name] = _refit(module, weights[name], dropped[f'{name}.weight', 1][1], moments[name])
            if (f'{name}.weight', 0) in dropped:  # it produces channels of the unit, too
                rows = dropped[f'{name}.weight', 0][1]
                module.weight.data[rows], offsets[name][rows] = 0.0, 0.0
        solved = {id(module.weight): name for name, module in readers.items()}
        alike = [(solved[id(module.weight)], module) for module in changed.values()  # that share a weight
                 if id(getattr(module, 'weight', None)) in solved]
        with watched(alike, after=lambda name, module, args, kwargs, out: out + _placed(module, offsets[name]).to(out)):
            yield {*changed}
    finally:
        for tensor, values in saved:
            tensor.data.copy_(values)
        for one in undo:
            one()
        torch.clear_autocast_cache()


def _readers(mutator: ChannelMutator, masks: Mapping[str, np.ndarray],
             moments: Mapping[str, Moments]) -> Dict[str, Any]:
    """Return the layers that can make up for what they lose: name -> module."""
    names = dict.fromkeys(member.axis.layer for unit in mutator.units if unit.name in masks for member in reading(unit))
    found = {name: mutator.model.get_submodule(name) for name in names if name in moments}
    return {name: module for name, module in found.items() if 'weight' in module._parameters}


def _refit(module: Any, weight: Tensor, gone: Tensor, moments: Moments) -> Tensor:
    """Write the best weight without some input channels ``LongTensor[D]``; return the offset ``Tensor[O]``."""
    groups, kernel = moments.xx.size(0), weight[0, 0].numel()
    stays = torch.ones(moments.xx.size(1), dtype=torch.bool, device=weight.device)
    stays[(gone[:, None] * kernel + torch.arange(kernel, device=gone.device)).flatten()] = False
    whole = weight.double().reshape(groups, -1, moments.xx.size(1))
    y, yx = (whole @ moments.x[:, :, None]).squeeze(2), whole @ moments.xx
    left = Moments(moments.samples, moments.x[:, stays], y, moments.xx[:, stays][:, :, stays], yx[:, :, stays],
                   (whole * yx).sum(2))
    solved, offset = LeastSquares(left, whole[:, :, stays]).solved(RIDGE)
    found = torch.zeros_like(whole)
    found[:, :, stays] = solved
    module.weight.data.copy_(found.reshape(weight.shape))
    return offset.flatten()


def _placed(module: nn.Module, offset: Tensor) -> Tensor:
    """Return the offsets of a layer's outputs in the shape in which they are added to them."""
    weight: Any = module.weight
    return offset if weight.dim() == 2 else offset.view(-1, *[1] * (weight.dim() - 2))
