"""Proof that a cut is right: the cut model computes what the masked dense model computes, and costs what is said."""
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from .equivalence import Comparable, Masks, cut_copy, difference, double_copy, outputs, random_masks, randomise
from .mutator import ChannelMutator
from .nested import output_tensors

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass
class Proof:
    """What a proof found.

    Attributes:
        units (int): Units that may be pruned.
        differences (list[float]): Largest relative difference of masked dense and cut model, float64, one a seed.
        same_shapes (bool): The outputs keep their shapes.
        backward (bool): A backward pass through the cut model gives finite gradients.
        macs (tuple[int, int]): Multiply-adds of the last cut model, by arithmetic and counted while it ran.
        share (float): Share of the multiply-adds that goes if every unit is cut to one class.
        unaccounted (list[str]): Conv and linear layers with channels neither in a unit nor frozen.
    """

    units: int
    differences: List[float]
    same_shapes: bool
    backward: bool
    macs: Tuple[int, int]
    share: float
    unaccounted: List[str]

    def holds(self, limit: float = 1e-10) -> bool:
        """Tell whether everything is as it must be."""
        return (max(self.differences) < limit and self.same_shapes and self.backward and not self.unaccounted
                and self.macs[0] == self.macs[1])


def largest_difference(mutator: ChannelMutator, masks: Masks) -> Tuple[float, nn.Module]:
    """Compare the masked dense with the cut model, in eval and train mode, in float64.

    Args:
        mutator (ChannelMutator): Prepared on a dense model; neither is changed.
        masks (dict[str, ndarray[classes], bool]): Unit name -> classes that stay.

    Returns:
        tuple[float, nn.Module]: The largest relative difference of any output, and the cut model.
    """
    return difference(double_copy(mutator.model), mutator.units, mutator.demo_input, masks)


def masks_around(mutator: ChannelMutator, ratio: float, seed: int) -> Dict[str, np.ndarray]:
    """Return masks that drop random classes: ``ratio`` of them on average, of units of one width different shares."""
    return random_masks(mutator.units, ratio, seed, spread=0.5 * min(ratio, 1 - ratio))


def verify(mutator: ChannelMutator, ratio: float = 0.5, seeds: int = 3) -> Dict[str, Any]:
    """Prune random channels of every unit and compare, once a seed.

    Args:
        mutator (ChannelMutator): Prepared on a dense model, whose norms get random values.
        ratio (float): Share of a unit that goes, on average; units of one width get different shares.
        seeds (int): How many random choices.

    Returns:
        dict: ``max_relative_difference``, ``per_seed`` and ``units``.
    """
    differences = []
    for seed in range(seeds):
        randomise(mutator.model, seed)
        differences.append(largest_difference(mutator, masks_around(mutator, ratio, seed))[0])
    return {'max_relative_difference': max(differences), 'per_seed': differences, 'units': len(mutator.units)}


def prove(mutator: ChannelMutator, ratio: float = 0.5, seeds: int = 3) -> Proof:
    """Check everything that a cut promises, for random channels of every unit.

    Args:
        mutator (ChannelMutator): Prepared on a dense model, whose norms get random values; its demo input holds two
            samples or more.
        ratio (float): Share of a unit that goes, on average.
        seeds (int): How many random choices.
    """
    result = verify(mutator, ratio, seeds)
    dense = double_copy(mutator.model)
    masks = masks_around(mutator, ratio, seeds - 1)
    cut = cut_copy(dense, mutator.units, masks)
    before = outputs(dense, mutator.demo_input, False)
    after = outputs(cut, mutator.demo_input, False)
    return Proof(len(mutator.units), result['per_seed'], [x.shape for x in before] == [x.shape for x in after],
                 runs_backward(cut, mutator.demo_input), (_macs(mutator, masks), counted_macs(cut, mutator.demo_input)),
                 prunable_share(mutator), unaccounted_layers(mutator))


def _macs(mutator: ChannelMutator, masks: Masks) -> int:
    return mutator.complexity.cost(mutator.surgery.widths_with(masks))['macs']


def prunable_share(mutator: ChannelMutator) -> float:
    """Return the share of the multiply-adds that goes if every unit of a dense model is cut to one class."""
    masks = {unit.name: np.arange(len(unit.kept)) == 0 for unit in mutator.units}
    return 1 - _macs(mutator, masks) / mutator.cost['macs']


def counted_macs(model: nn.Module, forward: Callable[[nn.Module], Any]) -> int:
    """Run a model in eval mode and count the multiply-adds of the conv and linear modules that really run."""
    total = 0

    def count(module: nn.Module, args: Any, out: Tensor) -> None:
        nonlocal total
        transposed = getattr(module, 'transposed', False)
        elements = args[0].numel() if transposed else out.numel()
        total += elements * module.weight[0].numel()  # type: ignore[index, operator]

    handles = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, LAYERS)]
    outputs(model, forward, training=False)
    for handle in handles:
        handle.remove()
    return total


def runs_backward(model: nn.Module, forward: Callable[[nn.Module], Any]) -> bool:
    """Run a forward and a backward pass in train mode and tell whether all gradients are finite."""
    model.train()
    with Comparable():
        tensors = [tensor for tensor in output_tensors(forward(model)) if tensor.requires_grad]
    loss = sum((tensor.square().mean() for tensor in tensors), torch.zeros(()))
    loss.backward()  # type: ignore[no-untyped-call]
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return bool(grads) and all(bool(grad.isfinite().all()) for grad in grads)


def unaccounted_layers(mutator: ChannelMutator) -> List[str]:
    """Return the weights of conv and linear modules with rows or columns neither in a unit nor frozen."""
    seen: Dict[Tuple[str, int], np.ndarray] = {}
    for channels in [*(unit.channels for unit in mutator.units), *mutator.frozen]:
        for member in channels.members:
            marks = seen.setdefault((member.axis.tensor, member.axis.dim), np.zeros(len(member.axis.ids), dtype=bool))
            marks[member.index] = True
    missing = []
    for name, _ in mutator.model.named_parameters():
        layer = mutator.model.get_submodule(name.rpartition('.')[0])
        if name.endswith('weight') and isinstance(layer, LAYERS):
            groups = getattr(layer, 'groups', 1)
            depthwise = groups > 1 and groups == getattr(layer, 'in_channels', 0)
            dims = (0,) if depthwise else (0, 1)  # a depthwise conv has one column
            if not all((name, dim) in seen and seen[name, dim].all() for dim in dims):
                missing.append(name)
    return missing
