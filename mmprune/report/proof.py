"""Proof that a cut is right: the cut model computes what the masked dense model computes, at the stated cost."""
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from torch import nn

from ..graph.capture import ERRORS
from ..graph.idle import CONV_OR_LINEAR
from ..graph.nested import output_tensors
from ..units.copies import double_copy
from ..units.counted_macs import counted_macs
from ..units.equivalence import (
    Deterministic,
    Masks,
    cut_copy,
    difference,
    mask_dense,
    outputs,
    random_masks,
    randomise,
    relative_difference,
)
from ..units.mutator import ChannelMutator


@dataclass
class Proof:
    """The result of :func:`prove`."""

    units: int  # units that may be pruned
    differences: List[float]  # for each seed the largest relative difference of masked dense and cut model, float64
    same_shapes: bool  # the outputs keep their shapes
    backward: bool  # a backward pass through the cut model gives finite gradients
    macs: Tuple[int, int]  # multiply-adds of the last cut model, by arithmetic and counted while it ran
    share: float  # share of the multiply-adds that is removed if every unit is cut to a single set
    unaccounted: List[str]  # conv and linear weights with channels neither in a unit nor frozen
    untrained: Optional[str] = None  # why train mode was left out: what the dense model raises in it

    def holds(self, limit: float = 1e-10) -> bool:
        """Tell whether every check passed."""
        return not self.failures(limit)

    def failures(self, limit: float = 1e-10) -> List[str]:
        """Return a line for each check that failed, with what it found."""
        worst, (arithmetic, counted) = max(self.differences), self.macs
        lines = [f'{layer}: some of its channels are neither in a unit nor frozen' for layer in self.unaccounted]
        if not worst < limit:
            lines.append(f'the cut model differs from the masked dense model by {worst:.2e}, the limit is {limit:.0e}')
        if not self.same_shapes:
            lines.append('the outputs of the cut model have other shapes')
        if not self.backward:
            lines.append('a backward pass through the cut model gives no finite gradients')
        if arithmetic != counted:
            lines.append(f'{arithmetic:,} multiply-adds by arithmetic, but {counted:,} counted while the cut model ran')
        return lines


def largest_difference(mutator: ChannelMutator, masks: Masks, eval_only: bool = False) -> Tuple[float, nn.Module]:
    """Return the largest relative difference of any output of the masked dense and the cut model, and the cut model.

    They are compared in eval and train mode, in float64.

    Args:
        mutator (ChannelMutator): Prepared on a dense model; neither is changed.
        masks (dict[str, ndarray[sets], bool]): Unit name -> which sets stay.
        eval_only (bool): Leave train mode out.
    """
    model, forward = double_copy(mutator.model), two_samples(mutator)
    if not eval_only:
        return difference(model, mutator.units, forward, masks)
    dense, cut = mask_dense(model, mutator.units, masks), cut_copy(model, mutator.units, masks)
    return relative_difference(outputs(dense, forward, False), outputs(cut, forward, False)), cut


def refusal_to_train(mutator: ChannelMutator) -> Optional[str]:
    """Return what the dense model raises in train mode, such as one that is made for eval mode only; else None."""
    try:
        outputs(double_copy(mutator.model), two_samples(mutator), True)
    except ERRORS as error:
        return ' '.join(f'{type(error).__name__}: {error}'.split())
    return None


def two_samples(mutator: ChannelMutator) -> Callable[[nn.Module], Any]:
    """Return the mutator's demo input with at least two samples: batch norms cannot train on one."""
    demo_input = mutator.demo_input
    return demo_input.for_trial()[-1] if hasattr(demo_input, 'for_trial') else demo_input


def masks_around(mutator: ChannelMutator, ratio: float, seed: int) -> Dict[str, np.ndarray]:
    """Return masks that drop random sets: ``ratio`` on average, different shares of units of the same width."""
    return random_masks(mutator.units, ratio, seed, spread=0.5 * min(ratio, 1 - ratio))


def verify(mutator: ChannelMutator, ratio: float = 0.5, seeds: int = 3) -> Dict[str, Any]:
    """Return ``max_relative_difference``, ``per_seed`` and ``units`` (how many); arguments as for :func:`prove`."""
    differences, _, _ = _differences(mutator, ratio, seeds, refusal_to_train(mutator) is not None)
    return {'max_relative_difference': max(differences), 'per_seed': differences, 'units': len(mutator.units)}


def _differences(mutator: ChannelMutator, ratio: float, seeds: int,
                 eval_only: bool) -> Tuple[List[float], Masks, nn.Module]:
    """Return the difference for each seed, and the masks and cut model of the last seed."""
    differences = []
    for seed in range(seeds):
        randomise(mutator.model, seed)
        masks = masks_around(mutator, ratio, seed)
        change, cut = largest_difference(mutator, masks, eval_only)
        differences.append(change)
    return differences, masks, cut


def prove(mutator: ChannelMutator, ratio: float = 0.5, seeds: int = 3) -> Proof:
    """Check everything that a cut promises, for random channels of every unit.

    Args:
        mutator (ChannelMutator): Prepared on a dense model, whose norms get random values.
        ratio (float): Share of a unit that is removed, on average; units of the same width get different shares.
        seeds (int): How many random choices of channels.
    """
    forward, untrained = two_samples(mutator), refusal_to_train(mutator)
    differences, masks, cut = _differences(mutator, ratio, seeds, untrained is not None)
    before, after = outputs(double_copy(mutator.model), forward, False), outputs(cut, forward, False)
    return Proof(len(mutator.units), differences, [x.shape for x in before] == [x.shape for x in after],
                 runs_backward(cut, forward, untrained is None),
                 (_macs(mutator, masks), counted_macs(cut, mutator.demo_input)),
                 prunable_share(mutator), unaccounted_layers(mutator), untrained)


def _macs(mutator: ChannelMutator, masks: Masks) -> int:
    return mutator.complexity.cost(mutator.surgery.widths_with(masks))['macs']


def prunable_share(mutator: ChannelMutator) -> float:
    """Return the share of the multiply-adds that is removed if every unit of a dense model is cut to one set."""
    masks = {unit.name: np.arange(len(unit.kept)) == 0 for unit in mutator.units}
    return 1 - _macs(mutator, masks) / mutator.cost['macs']


def runs_backward(model: nn.Module, forward: Callable[[nn.Module], Any], training: bool = True) -> bool:
    """Run a forward and a backward pass, in train mode or eval mode, and tell whether all gradients are finite."""
    model.train(training)
    with Deterministic():
        tensors = [tensor for tensor in output_tensors(forward(model)) if tensor.requires_grad]
    loss = sum((tensor.square().mean() for tensor in tensors), torch.zeros(()))
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return bool(grads) and all(bool(grad.isfinite().all()) for grad in grads)


def unaccounted_layers(mutator: ChannelMutator) -> List[str]:
    """Return the weights of conv and linear modules with input or output channels neither in a unit nor frozen."""
    seen: Dict[Tuple[str, int], np.ndarray] = {}
    for channels in [*(unit.channels for unit in mutator.units), *mutator.frozen]:
        for member in channels.members:
            marks = seen.setdefault((member.axis.tensor, member.axis.dim), np.zeros(len(member.axis.ids), dtype=bool))
            marks[member.index] = True
    missing = []
    for name, _ in mutator.model.named_parameters():
        layer = mutator.model.get_submodule(name.rpartition('.')[0])
        if name.endswith('weight') and isinstance(layer, CONV_OR_LINEAR):
            groups = getattr(layer, 'groups', 1)
            depthwise = groups > 1 and groups == getattr(layer, 'in_channels', 0)
            dims = (0,) if depthwise else (0, 1)  # the second axis of a depthwise weight has size 1
            if not all((name, dim) in seen and seen[name, dim].all() for dim in dims):
                missing.append(name)
    return missing
