"""Weight norm through a cut: ``g * v / |v|`` keeps its scale where columns of ``v`` go, since ``g`` shrinks with it.

Salimans and Kingma, Weight Normalization, 2016.
"""
from contextlib import contextmanager
from typing import Collection, Iterator, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm


def effective(model: nn.Module, name: str) -> Tensor:
    """Return the tensor that a layer computes with: that of the name, or the product of its norm and direction.

    Args:
        model (nn.Module): The model.
        name (str): Name of a parameter or buffer, such as ``conv.weight`` or ``conv.weight_v``.
    """
    for direction_name, direction, norms, dim, _ in _weight_norms(model) if name.endswith(('_v', '.original1')) else []:
        if direction_name == name:
            return direction.detach() * (norms.detach() / _norm(direction, dim))
    layer, _, attribute = name.rpartition('.')
    return getattr(model.get_submodule(layer), attribute).detach()  # type: ignore[no-any-return]


def refresh_masked(module: nn.Module) -> None:
    """Compute the weight of a layer anew that torch's pruning masks before each forward."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            setattr(module, hook._tensor_name, hook.apply_mask(module).detach())


@contextmanager
def kept_scale(model: nn.Module, tensors: Collection[str]) -> Iterator[None]:
    """Let the weights that are left by the block keep their values, where they are normalised.

    Args:
        model (nn.Module): The model; the block changes tensors of it.
        tensors (collection[str]): Names of the tensors that it changes.
    """
    changed = [found for found in _weight_norms(model) if found[0] in tensors]
    for _, direction, norms, dim, _ in changed:
        norms.data = norms.data / _norm(direction, dim).clamp_min(1e-30)
    try:
        yield
    finally:
        for _, direction, norms, dim, hook in changed:
            length = _norm(direction, dim)
            norms.data = norms.data * length
            direction.data = direction.data.masked_fill(length == 0, 1.0)  # any direction: its g is 0
            if hook is not None:
                module, refresh = hook
                setattr(module, refresh.name, refresh.compute_weight(module).detach())


def _norm(direction: Tensor, dim: int) -> Tensor:
    axes = [axis for axis in range(direction.dim()) if axis != dim]
    return torch.linalg.vector_norm(direction.data, dim=axes, keepdim=True)


def _weight_norms(model: nn.Module) -> List[Tuple[str, Tensor, Tensor, int, Optional[Tuple[nn.Module, WeightNorm]]]]:
    """Return name and tensor of ``v``, ``g``, the axis of the rows, and the hook that computes the weight, if any."""
    found: List[Tuple[str, Tensor, Tensor, int, Optional[Tuple[nn.Module, WeightNorm]]]] = []
    for name, module in model.named_modules():
        prefix = f'{name}.' if name else ''
        if isinstance(module, ParametrizationList) and type(module[0]).__name__ == '_WeightNorm' and len(module) == 1:
            norms, direction = module.original0, module.original1
            found.append((f'{prefix}original1', direction, norms, _axis(module[0].dim, direction), None))
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                norms, direction = getattr(module, f'{hook.name}_g'), getattr(module, f'{hook.name}_v')
                found.append((f'{prefix}{hook.name}_v', direction, norms, _axis(hook.dim, direction), (module, hook)))
    return found


def _axis(dim: int, direction: Tensor) -> int:
    return dim % direction.dim() if dim >= 0 else -1
