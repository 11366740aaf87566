"""Layers that record group Fisher information while a model trains.

A tap is an identity on the edge into a layer whose backward also yields, per sample and channel, the sum over positions
of activation times gradient. It saves nothing that the layer does not save anyway.
"""
from typing import Any, Dict, List, Tuple, Type

import torch
from torch import Tensor, nn

from ..units.attention.parameter_linear import ParameterLinear
from ..units.attention.product import QueryScale
from ..units.layer import DEFORMABLE

#: Elements of the largest product that a CPU makes at once: fresh pages for one of 50 MB take three times as long as
#: the product itself, smaller ones reuse memory. (A GPU's allocator keeps its memory.)
PRODUCT_ELEMENTS = 2**18


class Tap(torch.autograd.Function):
    """Identity on ``x`` whose backward gives ``stat`` the gradient ``sum_positions x * dL/dx``.

    Args:
        x (Tensor[N, C, *] or Tensor[N, *, C]): Input of a layer.
        stat (Tensor[N, C]): Zeros, a leaf; its gradient is the recorded quantity, in its own dtype.
        channel_axis (int): 1 or -1.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stat: Tensor, channel_axis: int) -> Tensor:  # noqa: D102
        ctx.save_for_backward(x)
        ctx.channel_axis, ctx.dtype = channel_axis, stat.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, Tensor, None]:  # noqa: D102
        x, = ctx.saved_tensors
        axis = ctx.channel_axis % x.dim()
        positions = [dim for dim in range(1, x.dim()) if dim != axis]
        samples = len(x)
        if x.device.type == 'cpu' and x.numel() > PRODUCT_ELEMENTS:
            samples = max(1, PRODUCT_ELEMENTS * len(x) // x.numel())
        parts = [_summed_product(*part, ctx.dtype, positions) for part in zip(x.split(samples), grad.split(samples))]
        return grad, parts[0] if len(parts) == 1 else torch.cat(parts), None


def _summed_product(x: Tensor, grad: Tensor, dtype: torch.dtype, positions: List[int]) -> Tensor:
    # half precision: the product may overflow even where its sum would not
    product = x.to(dtype) * grad.to(dtype)
    return product.sum(positions) if positions else product


class GroupFisherMixin:
    """A layer that taps its input while ``recording`` is set.

    Attributes:
        recording (bool): Whether calls under autograd are tapped.
        stats (list[Tensor[N, C]]): One leaf a call, in order; their gradients arrive with the backward pass.
    """

    recording = False
    channel_axis = 1
    weight: Tensor
    stats: List[Tensor]

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer on the tapped input."""
        x = input  # named as torch names it: callers may pass it by keyword
        if self.recording and torch.is_grad_enabled():
            if x.dim() < (2 if isinstance(self, ParameterLinear) else self.weight.dim()):
                raise ValueError(f'a layer got an input of shape {tuple(x.shape)}: scores by gradients need an axis of '
                                 'samples in front')
            dtype = x.dtype if x.dtype == torch.float64 else torch.float32
            stat = x.new_zeros((x.size(0), x.size(self.channel_axis)), dtype=dtype).requires_grad_()
            self.stats.append(stat)
            x = Tap.apply(x, stat, self.channel_axis)
        return super().forward(x, *args, **kwargs)  # type: ignore[misc]


class GroupFisherConv2d(GroupFisherMixin, nn.Conv2d):
    """``nn.Conv2d`` that records group Fisher information at its input ``Tensor[N, C, H, W]``."""


class GroupFisherLinear(GroupFisherMixin, nn.Linear):
    """``nn.Linear`` that records group Fisher information at its input ``Tensor[N, *, C]``."""

    channel_axis = -1


_TAPPED: Dict[Type[nn.Module], Type[nn.Module]] = {nn.Conv2d: GroupFisherConv2d, nn.Linear: GroupFisherLinear}


def recorded_with(layer: str, module: nn.Module) -> List[str]:
    """Return the layers inside a layer whose score its own tap records."""
    return [f'{layer}.{inner}' if layer else inner for kind in type(module).__mro__
            for inner in DEFORMABLE.get(kind.__name__, ())]


def add_tap(module: nn.Module) -> None:
    """Turn a conv or linear layer into its recording class, in place: same object, parameters, hooks and keys."""
    if isinstance(module, GroupFisherMixin):
        module.__dict__.setdefault('stats', [])  # it was built as the recording class
        return
    plain = type(module)
    if plain not in _TAPPED:  # a subclass, for example mmcv's Conv2dAdaptivePadding: keep its own forward
        axis = -1 if isinstance(module, (nn.Linear, QueryScale, ParameterLinear)) else 1
        _TAPPED[plain] = type(f'GroupFisher{plain.__name__}', (GroupFisherMixin, plain), {'channel_axis': axis})
    module.__class__ = _TAPPED[plain]
    module.stats = []


def remove_tap(module: nn.Module) -> None:
    """Give a recording layer its plain class back."""
    if isinstance(module, GroupFisherMixin):
        module.__class__ = type(module).__mro__[2]  # (tapped, GroupFisherMixin, plain, ...)
        del module.__dict__['stats']
        module.__dict__.pop('recording', None)
