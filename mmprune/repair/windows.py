"""What a conv or linear layer reads for each of its outputs."""
import math
from typing import Any, List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..attention.parameter_linear import ParameterLinear
from ..attention.product import QueryScale


def channels_first(module: nn.Module, x: Tensor) -> Tensor:
    """Return the input of a conv or linear layer as ``Tensor[N, C, *]``; without a sample axis, ``N`` is 1."""
    if isinstance(module, ParameterLinear):  # its input has an axis of samples
        return x.movedim(-1, 1)
    weight: Any = module.weight
    x = x[None] if x.dim() < weight.dim() else x
    return x.movedim(-1, 1) if isinstance(module, (nn.Linear, QueryScale)) else x


def count_places(module: Any, x: Tensor) -> int:
    """Return how many positions a layer's output has, of an input ``Tensor[N, C, *]``."""
    if isinstance(module, nn.Linear):
        return math.prod(x.shape[2:])
    return math.prod((size + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1
                     for size, pads, kernel, stride, dilation in zip(
                         x.shape[2:], _pads(module), module.weight.shape[2:], module.stride, module.dilation))


def _pads(module: Any) -> List[Tuple[int, int]]:
    """Return by how much a convolution pads each axis, before and after."""
    if module.padding == 'same':
        totals = [dilation * (size - 1) for size, dilation in zip(module.weight.shape[2:], module.dilation)]
        return [(total // 2, total - total // 2) for total in totals]
    padding = [0] * (module.weight.dim() - 2) if module.padding == 'valid' else module.padding
    return [(one, one) for one in padding]


def sliding_windows(module: Any, x: Tensor) -> Tensor:
    """Return what each output of a layer reads of its input ``Tensor[N, C, *]``, as a view of the padded input.

    ``Tensor[N, C, *places, *kernel]``; ``Tensor[N, C, places]`` for a linear layer.
    """
    if isinstance(module, nn.Linear):
        return x.reshape(*x.shape[:2], -1)
    pads = [width for pair in reversed(_pads(module)) for width in pair]
    x = F.pad(x, pads, 'constant' if module.padding_mode == 'zeros' else module.padding_mode)
    for dim, (size, stride, dilation) in enumerate(zip(module.weight.shape[2:], module.stride, module.dilation), 2):
        x = x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x


def spatial(out: Tensor) -> Tensor:
    """Return the output ``Tensor[N, O, *]`` of a layer with its positions in one axis: ``Tensor[N, O, P]``."""
    return out.reshape(*out.shape[:2], -1)


def columns(module: Any, x: Tensor, places: Tensor) -> Tensor:
    """Return what a layer reads at some of its outputs, a column for each: ``Tensor[groups, K, N * P]``.

    ``K`` is the input channels of a group times the positions of the kernel, in the order of the weight's.

    Args:
        module (nn.Module): A convolution or linear layer.
        x (Tensor[N, C, *]): Its input.
        places (LongTensor[P] or LongTensor[N, P]): Which of the output's positions, of all axes in one.
    """
    windows = sliding_windows(module, x)
    kernel = module.weight.dim() - 2
    sizes = windows.shape[2:windows.dim() - kernel]
    where: List[Tensor] = []
    for size in reversed(sizes):
        where.insert(0, places % size)
        places = torch.div(places, size, rounding_mode='floor')
    if places.dim() == 1:
        found = windows[(slice(None), slice(None), *where)]
    else:  # an image's own
        image = torch.arange(len(x), device=x.device)[:, None]
        found = windows[(image, slice(None), *where)].transpose(1, 2)
    images, channels, count = found.shape[:3]
    groups = getattr(module, 'groups', 1)
    by_group = found.reshape(images, groups, channels // groups, count, module.weight[0, 0].numel())
    return by_group.permute(1, 2, 4, 0, 3).reshape(groups, -1, images * count)
