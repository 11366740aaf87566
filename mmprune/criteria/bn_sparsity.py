"""Sparse norm scales: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017."""
from typing import Iterable, Union

import torch
from torch import Tensor, nn

from ..arguments import UserError

SCALED_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)


def norm_scales(model: nn.Module) -> Iterable[Tensor]:
    """Return the trainable scales of all norms of a model."""
    return [module.weight for module in model.modules()
            if isinstance(module, SCALED_NORMS) and isinstance(module.weight, Tensor) and module.weight.requires_grad]


@torch.no_grad()
def bn_sparsity_(model: Union[nn.Module, Iterable[Tensor]], s: float) -> None:
    """Add the subgradient of ``s * sum |gamma|`` to the gradients of norm scales (equation 1), in place.

    Call it between ``loss.backward()`` and ``optimizer.step()``. A scale without a gradient is left alone.

    Args:
        model (nn.Module or iterable[Tensor]): The model, or the scales.
        s (float): Strength; the paper takes 1e-4 or 1e-5.

    Raises:
        UserError: ``s`` is negative, or no scale is given.
    """
    if s < 0:
        raise UserError(f's is {s}; it is the strength of a penalty, 0 or more')
    scales = list(norm_scales(model) if isinstance(model, nn.Module) else model)
    if not scales:
        raise UserError('there is no norm with a scale that is trained: nothing can become sparse')
    for scale in scales:
        if scale.grad is not None:
            scale.grad.add_(scale.sign(), alpha=s)
