"""Norms of a cut stream at the price of plain ones: weights of a copy for deployment take over their means.

A layer norm over a stream of which ``K`` of ``C`` channels are left counts the others as zeros. It divides
``x - sum(x) / C`` by the root of ``(sum(x^2) - sum(x)^2 / C) / C + eps``, in which stands ``|T x|^2`` with
``T^2 = I - 1 1^T / C``, so that ``T = I - a 1 1^T``. If the stream holds ``u = T x``, what the norm divides by is a
root mean square of ``K`` channels, and what it divides is ``T u``. All that writes the stream is linear, and so is what
reads a norm: the former takes ``T``, the latter ``T`` and the weight and the bias of the norm. Ashkboos et al.,
SliceGPT (ICLR 2024), take the mean of whole layer norms into weights in this way.

Whatever else reads the stream gets ``x`` back. A stream is folded only if a copy with random weights computes the same
afterwards, in float64 and on random inputs; others stay as they are.
"""
import logging
from typing import Any, Callable, List

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ...graph.capture import trace_model
from ...graph.channels import CoupledChannels
from ...graph.grouping import group_channels
from ...units.attention.norm import StreamNorm
from ...units.copies import double_copy, own_copy
from ...units.equivalence import outputs, randomise, relative_difference
from .stream import StreamFold

#: Largest relative difference of the outputs: in float64 with random weights, and in float32 with the model's own.
EXACT, ROUNDED = 1e-9, 1e-3
STAY = 'norms over removed channels stay in the file'
Run = Callable[[nn.Module, Tensor], Any]


def fold_norms(model: nn.Module, x: Tensor, run: Run = lambda model, x: model(x)) -> nn.Module:
    """Return a copy whose exact stream norms are root mean squares, or the model where no norm can become one.

    Memory: a copy of the model in float64, and of a stream's weights, while it is looked at.

    Args:
        model (nn.Module): In eval mode, with parameters in float32; it is not changed.
        x (Tensor[N, C, H, W]): An input. The copy computes the same on inputs of any size, unless the model pads what a
            norm returns.
        run (Callable): Runs a model on an input.
    """
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if types != {torch.float32} or not any(counts_removed(module) for module in model.modules()):
        return model
    try:
        folds = folds_of(model, x, run)
        if not folds:
            return model
        found = own_copy(model)
        for fold in folds:
            fold.apply(found)
        gap = relative_difference(*(outputs(one, lambda one: run(one, x), training=False) for one in (
            own_copy(model), found)))
    except Exception as error:  # noqa: BLE001  (a file with slower norms is better than none)
        print_log(f'{STAY}: {type(error).__name__}: {error}', logger='current', level=logging.WARNING)
        return model
    if gap < ROUNDED:
        return found
    print_log(f'{STAY}: without them outputs are off by {gap:.1e}', logger='current', level=logging.WARNING)
    return model


def folds_of(model: nn.Module, x: Tensor, run: Run) -> List[StreamFold]:
    """Return what can be folded, as a copy with random weights tells on random images."""
    random = double_copy(model)
    randomise(random, seed=0)  # or nothing tells a branch behind zeros
    images = torch.randn(min(2, len(x)), *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def forward(model: nn.Module) -> Any:
        return run(model, images)

    wanted, found = outputs(random, forward, training=False), []
    for channels in streams(random, forward):
        fold = StreamFold(random, channels, forward)
        if fold.is_possible:
            changes = fold.apply(random)
            if relative_difference(wanted, outputs(random, forward, training=False)) < EXACT:
                found.append(fold)
            else:
                changes.undo()
    return found


def counts_removed(module: Any) -> bool:
    """Tell whether a norm counts channels that are gone."""
    return isinstance(module, StreamNorm) and module.counts_removed and module.dense_width > module.weight.numel()


def streams(model: nn.Module, forward: Callable[[nn.Module], Any]) -> List[CoupledChannels]:
    """Return the streams that such norms are over."""
    graph, modules = group_channels(trace_model(model, forward, tells=False)), dict(model.named_modules())
    return [channels for channels in [*graph.units, *graph.frozen] if any(
        member.axis.across and counts_removed(modules[member.axis.layer]) for member in channels.members)]
