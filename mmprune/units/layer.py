"""Layers that record group Fisher information, and the surgery that makes a layer really smaller.

Recording: an identity on the edge into a layer whose backward also yields, per sample and channel, the sum over
positions of activation times gradient. It saves nothing that the layer does not save anyway.
Surgery: index the axes of parameters and buffers in place, then let the module's own attributes follow.
"""
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Type

import torch
from torch import Tensor, nn

#: Elements of the largest product that a CPU makes at once. Fresh pages for a product of 50 MB take three times as long
#: as the product itself; pieces stay in memory that is there already. (A GPU's allocator keeps its memory.)
PIECE = 2**18


class OptimizerError(ValueError):
    """An optimizer cannot follow a cut; the message says what to do."""


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
        samples = len(x) if x.device.type != 'cpu' or x.numel() <= PIECE else max(1, PIECE * len(x) // x.numel())
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
            if x.dim() < self.weight.dim():
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


TAPPABLE: Tuple[Type[nn.Module], ...] = (nn.modules.conv._ConvNd, nn.Linear)
#: Convolutions that are no ``nn.Conv2d``, by class name -> layers inside them that read the same input. The tap of
#: the outer one records the gradient through both, so that the inner one has none.
DEFORMABLE: Dict[str, Tuple[str, ...]] = {'DeformConv2d': ('conv_offset',), 'ModulatedDeformConv2d': ('conv_offset',)}
_TAPPED: Dict[Type[nn.Module], Type[nn.Module]] = {nn.Conv2d: GroupFisherConv2d, nn.Linear: GroupFisherLinear}


def is_deformable(module: nn.Module) -> bool:
    """Tell whether a module is a deformable convolution of mmcv."""
    return any(kind.__name__ in DEFORMABLE for kind in type(module).__mro__)


def is_tappable(module: nn.Module) -> bool:
    """Tell whether a module is a layer whose input can be tapped."""
    return isinstance(module, TAPPABLE) or is_deformable(module)


def recorded_with(layer: str, module: nn.Module) -> List[str]:
    """Return the layers inside a layer whose score its own tap records."""
    return [f'{layer}.{inner}' if layer else inner for kind in type(module).__mro__
            for inner in DEFORMABLE.get(kind.__name__, ())]


def add_tap(module: nn.Module) -> None:
    """Turn a conv or linear layer into its recording class, in place: same object, parameters, hooks and keys."""
    if isinstance(module, GroupFisherMixin):
        module.__dict__.setdefault('stats', [])  # somebody built the recording class itself
        return
    plain = type(module)
    if plain not in _TAPPED:  # a subclass, for example mmcv's Conv2dAdaptivePadding: keep its own forward
        axis = -1 if isinstance(module, nn.Linear) else 1
        _TAPPED[plain] = type(f'GroupFisher{plain.__name__}', (GroupFisherMixin, plain), {'channel_axis': axis})
    module.__class__ = _TAPPED[plain]
    module.stats = []


def remove_tap(module: nn.Module) -> None:
    """Give a recording layer its plain class back."""
    if isinstance(module, GroupFisherMixin):
        module.__class__ = type(module).__mro__[2]  # (tapped, GroupFisherMixin, plain, ...)
        del module.__dict__['stats']
        module.__dict__.pop('recording', None)


def gather(tensor: Tensor, dim: int, source: Tensor, fill: float = 0.0) -> Tensor:
    """Return a tensor whose index ``i`` along ``dim`` is the old index ``source[i]``, or ``fill`` where that is -1."""
    source = source.to(tensor.device)
    if not bool((source < 0).any()):
        return tensor.index_select(dim, source)
    shape = list(tensor.shape)
    shape[dim] = len(source)
    result = tensor.new_full(shape, fill)
    old = source >= 0
    return result.index_copy_(dim, old.nonzero().squeeze(1), tensor.index_select(dim, source[old]))


def resize_tensor(tensor: Tensor, axes: Sequence[Tuple[int, Tensor]], optimizers: Iterable[torch.optim.Optimizer] = (),
                  fill: float = 0.0) -> None:
    """Re-index a parameter or buffer in place, with its gradient and what optimizers remember of it.

    Args:
        tensor (Tensor): Parameter or buffer; it stays the same object.
        axes (list[tuple[int, LongTensor]]): Axis and, for each new index, the old index or -1 for a fresh one.
        optimizers (list[Optimizer]): Optimizers whose state follows; see :func:`check_state`.
        fill (float): Value of fresh elements.
    """
    before = tensor.shape

    def resized(value: Tensor) -> Tensor:
        channels_last = value.dim() == 4 and value.is_contiguous(
            memory_format=torch.channels_last) and not value.is_contiguous()
        for dim, source in axes:
            if value.size(dim) == before[dim]:  # else a mean along this axis
                value = gather(value, dim, source, fill)
        return value.contiguous(memory_format=torch.channels_last) if channels_last else value

    grad: Optional[Tensor] = tensor.grad
    tensor.grad = None
    data = resized(tensor.data)
    # a graph that is still alive keeps the node that takes the gradient, with the old shape; torch makes a new one
    # where the dtype changes
    tensor.data = data.new_empty(0, dtype=torch.float16 if data.dtype != torch.float16 else torch.float32)
    tensor.data = data
    if grad is not None:
        tensor.grad = resized(grad)
    for optimizer in optimizers:
        for key, value in optimizer.state.get(tensor, {}).items():
            if isinstance(value, Tensor) and value.dim() and (value.shape == before or value.numel() > 1):
                optimizer.state[tensor][key] = resized(value)


def check_state(tensor: Tensor, name: str, optimizer: torch.optim.Optimizer) -> None:
    """Check that what an optimizer remembers of a parameter can follow a cut.

    That is a value an element, or a mean along some of its axes.

    Args:
        tensor (Tensor): The parameter.
        name (str): Its name.
        optimizer (Optimizer): The optimizer.

    Raises:
        OptimizerError: It cannot; the message says what to do.
    """
    for key, value in optimizer.state.get(tensor, {}).items():
        several = [part for part in value if isinstance(part, Tensor)] if isinstance(value, (list, tuple)) else []
        if isinstance(value, Tensor) and value.numel() > 1:
            follows = value.dim() == tensor.dim() and all(
                size in (1, whole) for size, whole in zip(value.shape, tensor.shape))
            several = [] if follows else [value]
        if several:
            raise OptimizerError(
                f'{type(optimizer).__name__} keeps {key!r} of shape {tuple(several[0].shape)} for {name!r} of shape '
                f'{tuple(tensor.shape)}, which cannot follow a cut: make a new optimizer after it')


def refresh_attributes(module: nn.Module, depthwise: bool = False) -> None:
    """Let a module's size attributes follow the shapes of its tensors.

    Args:
        module (nn.Module): A layer whose tensors were cut.
        depthwise (bool): It is a depthwise conv and stays one. With one channel left that cannot be told from it.
    """
    if isinstance(module, nn.modules.conv._ConvNd) or is_deformable(module):
        out_axis, in_axis = (1, 0) if module.transposed else (0, 1)
        if depthwise:
            multiplier = module.out_channels // module.groups
            module.groups = module.weight.size(0) // (1 if module.transposed else multiplier)
            module.in_channels, module.out_channels = module.groups, module.groups * multiplier
        elif module.transposed:
            module.in_channels = module.weight.size(in_axis)
            module.out_channels = module.weight.size(out_axis) * module.groups
        else:
            module.out_channels = module.weight.size(out_axis)
            module.in_channels = module.weight.size(in_axis) * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.GroupNorm):
        size = module.num_channels // module.num_groups
        module.num_channels = module.weight.numel()
        module.num_groups = module.num_channels // size
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif hasattr(module, 'num_features'):
        sizes = [t.numel() for t in (getattr(module, 'running_mean', None), getattr(module, 'weight', None))
                 if isinstance(t, Tensor)]
        module.num_features = sizes[0] if sizes else module.num_features
