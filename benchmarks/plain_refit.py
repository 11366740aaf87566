"""A simpler repair to compare with: every 1 x 1 convolution refitted by ridge regression on the dense network's inputs.

Each is fitted on its own, once, on what it read in the dense network, of the channels that are left: no layer makes up
for those before it, nothing is held back, and offsets are left to the norms, whose statistics are measured again.
"""
from typing import Any, Dict, List, Sequence

import torch
from torch import Tensor, nn

from mmprune.repair.layer import present_outputs
from mmprune.units.mutator import ChannelMutator

#: Ridge, in mean squares of the inputs.
RIDGE = 1e-2


def pointwise(model: nn.Module) -> Dict[str, Any]:
    """Return name -> module of the 1 x 1 convolutions without groups."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1) and module.groups == 1}


def grams_of(dense: nn.Module, images: Sequence[Tensor]) -> Dict[str, Tensor]:
    """Return name -> ``Tensor[C, C]``, the covariance of what each of them reads in the dense network, float64."""
    sums: Dict[str, List[Any]] = {}
    handles = []
    for name, module in pointwise(dense).items():
        def watch(layer: Any, inputs: Any, name: str = name) -> None:
            x = inputs[0].transpose(0, 1).flatten(1).double()
            found = sums.setdefault(name, [0, 0, 0])
            found[0], found[1], found[2] = found[0] + x @ x.T, found[1] + x.sum(1), found[2] + x.size(1)
        handles.append(module.register_forward_pre_hook(watch))
    with torch.no_grad():
        for batch in images:
            dense(batch)
    for handle in handles:
        handle.remove()
    return {name: products / count - torch.outer(total / count, total / count)
            for name, (products, total, count) in sums.items()}


def refit(mutator: ChannelMutator, dense: nn.Module, grams: Dict[str, Tensor]) -> None:
    """Refit the 1 x 1 convolutions of a cut network.

    Args:
        mutator (ChannelMutator): Of the cut network.
        dense (nn.Module): What it was cut from.
        grams (dict[str, Tensor]): See :func:`grams_of`.
    """
    layers, dense_layers = pointwise(mutator.model), pointwise(dense)
    for name, layer in layers.items():
        weight, full = f'{name}.weight', dense_layers[name].weight.detach().double().flatten(1)
        axes = [member.axis for _, member in mutator.surgery.members.get(weight, []) if member.axis.dim == 1]
        if not axes or layer.weight.size(1) == full.size(1):
            continue
        rows = present_outputs(mutator, weight, len(full))
        kept = torch.from_numpy(mutator.surgery.kept_outputs(axes[0], full.size(1)))
        gram = grams[name]
        among = gram[kept][:, kept]
        among = among + RIDGE * among.diagonal().mean() * torch.eye(len(kept), dtype=torch.float64)
        solved = torch.linalg.solve(among, gram[kept] @ full[rows].T).T
        layer.weight.data.copy_(solved.reshape(layer.weight.shape))
