"""One layer made really smaller: its tensors re-indexed in place, with gradients and what optimizers remember.

Then the module's own attributes follow.
"""
from typing import Dict, Iterable, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..arguments import UserError
from ..graph.idle import CONV_OR_LINEAR
from .attention.parameter_linear import ParameterLinear
from .attention.product import QueryScale


class OptimizerError(UserError):
    """An optimizer cannot follow a cut; the message says what to do."""


#: Convolutions that are no ``nn.Conv2d``, by class name -> layers inside them that read the same input. The tap of
#: the outer one records the gradient through both, so that the inner one has none.
DEFORMABLE: Dict[str, Tuple[str, ...]] = {'DeformConv2d': ('conv_offset',), 'ModulatedDeformConv2d': ('conv_offset',)}


def is_deformable(module: nn.Module) -> bool:
    """Tell whether a module is a deformable convolution of mmcv."""
    return any(kind.__name__ in DEFORMABLE for kind in type(module).__mro__)


def is_tappable(module: nn.Module) -> bool:
    """Tell whether a module is a layer whose input can be tapped."""
    return isinstance(module, (*CONV_OR_LINEAR, QueryScale, ParameterLinear)) or is_deformable(module)


def layer_reading(model: nn.Module, weight: str) -> Optional[Tuple[str, nn.Module]]:
    """Return the name and the module whose input the columns of a weight read, by the name of the weight; or None."""
    owner, _, attribute = weight.rpartition('.')
    around, _, name = owner.rpartition('.') if attribute == 'weight' else (owner, '', attribute[:-len('_weight')])
    inner = model.get_submodule(around)._modules.get(f'{name}_rows')
    if isinstance(inner, ParameterLinear):
        return f'{around}.{name}_rows' if around else f'{name}_rows', inner
    return (owner, model.get_submodule(owner)) if attribute == 'weight' else None


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
        tensor (Tensor): Stays the same object.
        axes (list[tuple[int, LongTensor]]): Axis and, for each new index, the old index or -1 for a fresh one.
        optimizers (list[Optimizer]): Optimizers whose state follows; see :func:`check_optimizers`.
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


def check_optimizers(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Check that what optimizers remember of a model can follow a cut: a value an element, or a mean along some axes.

    Raises:
        OptimizerError: It cannot; the message says what to do.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter in optimizer.state:
            if id(parameter) in names:
                _check_state(parameter, names[id(parameter)], optimizer)


def _check_state(tensor: Tensor, name: str, optimizer: torch.optim.Optimizer) -> None:
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
