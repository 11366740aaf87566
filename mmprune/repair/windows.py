"""What a conv or linear layer reads for each of its outputs."""
from typing import Any, List

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


def channels_first(module: nn.Module, x: Tensor) -> Tensor:
    """Return the input of a conv or linear layer as ``Tensor[N, C, *]``; without a sample axis, ``N`` is 1."""
    weight: Any = module.weight
    x = x[None] if x.dim() < weight.dim() else x
    return x.movedim(-1, 1) if isinstance(module, nn.Linear) else x


def sliding_windows(module: Any, x: Tensor) -> Tensor:
    """Return what each output of a layer reads of its input ``Tensor[N, C, *]``, as a view of the padded input.

    ``Tensor[N, C, *places, *kernel]``; ``Tensor[N, C, places]`` for a linear layer.
    """
    if isinstance(module, nn.Linear):
        return x.reshape(*x.shape[:2], -1)
    kernel, pads = module.weight.shape[2:], []
    for dim in reversed(range(len(kernel))):
        if isinstance(module.padding, str):
            total = module.dilation[dim] * (kernel[dim] - 1) if module.padding == 'same' else 0
            pads += [total // 2, total - total // 2]
        else:
            pads += [module.padding[dim]] * 2
    x = F.pad(x, pads, 'constant' if module.padding_mode == 'zeros' else module.padding_mode)
    for dim, (size, stride, dilation) in enumerate(zip(kernel, module.stride, module.dilation), 2):
        x = x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x


def spatial(out: Tensor) -> Tensor:
    """Return the output ``Tensor[N, O, *]`` of a layer with its positions in one axis: ``Tensor[N, O, P]``."""
    return out.reshape(*out.shape[:2], -1)


def columns(module: Any, x: Tensor, places: Tensor) -> Tensor:
    """Return what a layer reads at some of its outputs, a column for each: ``Tensor[groups, K, N * places]``.

    ``K`` is the input channels of a group times the positions of the kernel, in the order of the weight's.

    Args:
        module (nn.Module): A convolution or linear layer.
        x (Tensor[N, C, *]): Its input.
        places (LongTensor): Which of the output's positions, of all axes in one.
    """
    windows = sliding_windows(module, x)
    kernel = module.weight.dim() - 2
    sizes = windows.shape[2:windows.dim() - kernel]
    where: List[Tensor] = []
    for size in reversed(sizes):
        where.insert(0, places % size)
        places = torch.div(places, size, rounding_mode='floor')
    found = windows[(slice(None), slice(None), *where)]
    images, channels, count = found.shape[:3]
    groups = getattr(module, 'groups', 1)
    by_group = found.reshape(images, groups, channels // groups, count, module.weight[0, 0].numel())
    return by_group.permute(1, 2, 4, 0, 3).reshape(groups, -1, images * count)
