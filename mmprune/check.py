"""Proof that a cut is right: the cut model computes what the masked dense model computes.

Masked dense: the dense model with the consumers' input columns of the dropped channels set to zero. Zeroing anything
earlier would not be exact, since activations like sigmoid map zero to something else.
"""
import copy
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from .mutator import ChannelMutator
from .tracing import output_tensors

Masks = Mapping[str, np.ndarray]


def random_masks(mutator: ChannelMutator, ratio: float, seed: int) -> Dict[str, np.ndarray]:
    """Return masks that drop a random ``ratio`` of every unit's classes, at least one stays."""
    random = np.random.RandomState(seed)
    masks: Dict[str, np.ndarray] = {}
    for unit in mutator.units:
        count = len(unit.kept)
        masks[unit.name] = np.ones(count, dtype=bool)
        masks[unit.name][random.permutation(count)[:min(count - 1, round(count * ratio))]] = False
    return masks


def randomise_norms(model: nn.Module, seed: int) -> None:
    """Give every norm random running statistics and affine parameters, so that no channel is like another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, 'running_mean') and isinstance(module.running_mean, Tensor):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
                for name, centre in (('weight', 1.0), ('bias', 0.0)):
                    tensor = getattr(module, name, None)
                    if isinstance(tensor, Tensor):
                        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2 + centre)


def mask_dense(mutator: ChannelMutator, masks: Masks) -> nn.Module:
    """Return a copy of the mutator's dense model with the dropped channels masked at their consumers."""
    dense = copy.deepcopy(mutator.model)
    tensors = dict(dense.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for unit in mutator.units:
            for member in unit.channels.members:
                if member.axis.role == 'in':
                    weight = tensors[member.axis.tensor]
                    dropped = torch.from_numpy(member.index[~masks[unit.name]].reshape(-1)).to(weight.device)
                    weight.index_fill_(member.axis.dim, dropped, 0.0)
    return dense


def relative_difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of tensors, over the largest value; inf where shapes differ."""
    if [a.shape for a in left] != [b.shape for b in right]:
        return float('inf')
    worst = 0.0
    for a, b in zip(left, right):
        if a.numel():
            difference = float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))
            worst = max(worst, difference if difference == difference else float('inf'))
    return worst


def set_mode(model: nn.Module, training: bool) -> None:
    """Set train or eval mode; whatever drops at random stays off."""
    model.train(training)
    for module in model.modules():
        if 'drop' in type(module).__name__.lower():
            module.eval()


def outputs(model: nn.Module, mutator: ChannelMutator, training: bool) -> List[Tensor]:
    """Run a model on the demo input in float64 and return its output tensors."""
    set_mode(model, training)
    with torch.no_grad():
        tensors = output_tensors(mutator.demo_input(model))
    if not tensors:
        raise ValueError(f'{type(model).__name__} returns no tensor on the demo input: nothing can be compared')
    return tensors


def largest_difference(mutator: ChannelMutator, masks: Masks) -> Tuple[float, nn.Module]:
    """Compare the masked dense with the cut model, in eval and train mode, in float64.

    Args:
        mutator (ChannelMutator): Prepared on a dense model; neither is changed.
        masks (dict[str, ndarray[classes], bool]): Unit name -> classes that stay.

    Returns:
        tuple[float, nn.Module]: The largest relative difference of any output, and the cut model.
    """
    double = copy.deepcopy(mutator)
    double.model.double()
    dense = mask_dense(double, masks)
    double.cut(masks)
    worst = 0.0
    for training in (False, True):
        cut = copy.deepcopy(double.model)
        worst = max(worst, relative_difference(outputs(dense, double, training), outputs(cut, double, training)))
    return worst, double.model


def verify(mutator: ChannelMutator, ratio: float = 0.5, seeds: int = 3) -> Dict[str, Any]:
    """Prune random channels of every unit and compare, once a seed.

    Args:
        mutator (ChannelMutator): Prepared on a dense model, whose norms get random values.
        ratio (float): Share of every unit that goes.
        seeds (int): How many random choices.

    Returns:
        dict: ``max_relative_difference``, ``per_seed`` and ``units``.
    """
    differences = []
    for seed in range(seeds):
        randomise_norms(mutator.model, seed)
        differences.append(largest_difference(mutator, random_masks(mutator, ratio, seed))[0])
    return {'max_relative_difference': max(differences), 'per_seed': differences, 'units': len(mutator.units)}
