"""What a conv or linear layer reads for each of its outputs."""
import math
from typing import Any, List, NamedTuple, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..units.attention.parameter_linear import ParameterLinear
from ..units.attention.product import QueryScale


def channels_first(module: nn.Module, x: Tensor) -> Tensor:
    """Return the input of a conv or linear layer as ``Tensor[N, C, *]``; without a sample axis, ``N`` is 1."""
    if isinstance(module, ParameterLinear):  # its input has an axis of samples
        return x.movedim(-1, 1)
    weight: Any = module.weight
    x = x[None] if x.dim() < weight.dim() else x
    return x.movedim(-1, 1) if isinstance(module, (nn.Linear, QueryScale)) else x


class Axis(NamedTuple):
    """An axis of a layer's input, and how a kernel goes along it."""

    places: int  #: positions of the output
    kernel: int
    stride: int = 1
    dilation: int = 1
    pad: int = 0  #: before the first element


def _axes(module: Any, x: Tensor) -> List[Axis]:
    """Return the axes of an input ``Tensor[N, C, *]``; a linear layer has one."""
    if isinstance(module, nn.Linear):
        return [Axis(math.prod(x.shape[2:]), 1)]
    return [Axis((size + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1, kernel, stride, dilation, pads[0])
            for size, pads, kernel, stride, dilation in zip(
                x.shape[2:], _pads(module), module.weight.shape[2:], module.stride, module.dilation)]


def count_places(module: Any, x: Tensor) -> int:
    """Return how many positions a layer's output has, of an input ``Tensor[N, C, *]``."""
    return math.prod(axis.places for axis in _axes(module, x))


def _pads(module: Any) -> List[Tuple[int, int]]:
    """Return by how much a convolution pads each axis, before and after."""
    if module.padding == 'same':
        totals = [dilation * (size - 1) for size, dilation in zip(module.weight.shape[2:], module.dilation)]
        return [(total // 2, total - total // 2) for total in totals]
    padding = [0] * (module.weight.dim() - 2) if module.padding == 'valid' else module.padding
    return [(one, one) for one in padding]


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
    axes = _axes(module, x)
    if isinstance(module, nn.Linear):
        x = x.reshape(*x.shape[:2], -1)
    elif module.padding_mode != 'zeros':
        x = F.pad(x, [width for pair in reversed(_pads(module)) for width in pair], module.padding_mode)
        axes = [axis._replace(pad=0) for axis in axes]
    image: Any = slice(None)
    if places.dim() > 1:  # an image's own
        image = torch.arange(len(x), device=x.device).view(-1, *[1] * (1 + len(axes)))
    where: List[Tensor] = []
    inside = torch.ones_like(places, dtype=torch.bool).view(*places.shape, *[1] * len(axes))
    for number, axis in reversed([*enumerate(axes)]):
        start = places % axis.places * axis.stride - axis.pad
        places = torch.div(places, axis.places, rounding_mode='floor')
        read = start[..., None] + axis.dilation * torch.arange(axis.kernel, device=x.device)
        read = read.view(*places.shape, *[1] * number, -1, *[1] * (len(axes) - number - 1))
        inside = inside & (read >= 0) & (read < x.size(2 + number))
        where.insert(0, read.clamp(0, x.size(2 + number) - 1))
    found = x.movedim(1, -1)[(image, *where)]  # a position's channels are copied together, and nothing is padded
    if not inside.all():
        found = found.masked_fill(~inside[..., None], 0)
    images, count = found.shape[:2]
    groups = getattr(module, 'groups', 1)
    by_group = found.reshape(images, count, module.weight[0, 0].numel(), groups, -1)
    return by_group.permute(3, 4, 2, 0, 1).reshape(groups, -1, images * count)
