"""Layers that hold the weight that they have computed before: standardised filters of which columns go.

The mean and the variance of a filter change where columns of it go. So a layer with standardised filters is *baked*
before its columns are cut or masked: its parameter takes the values of the weight that it computes, and is used as it
is from then on. Rows can go without that. A baked layer trains as a plain one.
"""
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Type

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from ..graph.computed_weight import ARGUMENTS, is_plain, probe, weight_call


class Undo(NamedTuple):
    """What a layer was before it was baked."""

    module: nn.Module
    kind: Type[nn.Module]
    weight: Tensor
    trained: List[nn.Parameter]  #: its parameters that nothing uses any more

    def __call__(self) -> None:
        """Let the layer compute its weight again, from the parameter as it was."""
        self.module.__class__ = self.kind
        self.module.__dict__.pop('columns', None)
        self.module.weight.data = self.weight  # type: ignore[union-attr, assignment]
        for parameter in self.trained:
            parameter.requires_grad_(True)


def bake(module: nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> Optional[Undo]:
    """Let a layer hold the weight that it computes at present, in the same parameter; a baked one stays as it is.

    A module that does nothing else becomes torch's own class; one that does, such as to pad by the size of its input,
    runs its forward with its parameter in place of what it computes. What nothing uses any more, such as a gain, keeps
    its place in the state dict and is not trained. What optimizers remember of the weight is dropped, since it
    belonged to other numbers, and its gradient too.

    Args:
        module (nn.Module): A conv or linear module whose forward computes its weight.
        optimizers (iterable[Optimizer]): Optimizers of the model.

    Returns:
        Undo or None: Called, it undoes this; None if nothing was to be done.
    """
    call = weight_call(module)
    weight: Any = module.weight
    assert call is not None
    if call.weight is weight:
        return None
    before, kind = weight.data, type(module)
    weight.data, weight.grad = call.weight.detach().clone(), None
    for optimizer in optimizers:
        optimizer.state.pop(weight, None)
    if is_plain(module):
        module.__class__ = _torch_class(kind)
    else:
        module.__class__, module.columns = _baked_class(kind), weight.size(1)
    unused = _unused(module)
    for parameter in unused:
        parameter.requires_grad_(False)
        parameter.grad = None
    return Undo(module, kind, before, unused)


def _torch_class(kind: Type[nn.Module]) -> Type[nn.Module]:
    return next(one for one in kind.__mro__ if one.__module__.startswith('torch.nn.modules.'))


def _unused(module: nn.Module) -> List[nn.Parameter]:
    """Return the parameters of a module that its forward does not use."""
    own = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        out = type(module).forward(module, probe(module)).sum()
        used = torch.autograd.grad(out, own, allow_unused=True) if out.requires_grad else own
    return [parameter for parameter, grad in zip(own, used) if grad is None]


class _OwnWeight(TorchFunctionMode):
    """Let a module compute a weight without numbers, and the function of its layer use its parameter instead.

    The computation sees as many columns as there were before the cut: of a single number there is no variance.
    """

    def __init__(self, weight: Tensor, columns: int) -> None:
        super().__init__()
        self.weight, self.columns = weight, columns

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        names = ARGUMENTS.get(getattr(func, '__name__', ''))
        if names is not None:
            kwargs.update(zip(names, args))
            if kwargs['weight'].is_meta:
                kwargs['weight'] = self.weight
            args = (kwargs.pop('input'), kwargs.pop('weight'))
        elif func is not Tensor.device.__get__ and any(  # type: ignore[attr-defined]
                leaf is self.weight or isinstance(leaf, Tensor) and leaf.is_meta
                for leaf in tree_flatten((args, kwargs))[0]):
            args, kwargs = tree_map(self._without_numbers, (args, kwargs))
        return func(*args, **kwargs)

    def _without_numbers(self, value: Any) -> Any:
        if value is self.weight:
            return value.new_empty((len(value), self.columns, *value.shape[2:]), device='meta')
        return value.detach().to('meta') if isinstance(value, Tensor) else value


class BakedMixin:
    """A layer that runs its forward with its parameter in place of the weight that this computes."""

    plain: Type[nn.Module]  #: the class of the layer before
    weight: Tensor
    columns: int  #: columns of the weight when it was baked

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the forward of the layer's own class."""
        with _OwnWeight(self.weight, self.columns):
            return super().forward(*args, **kwargs)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        if type(self) is not _BAKED.get(self.plain):  # it is tapped, say
            return super().__reduce_ex__(protocol)
        return _new, (self.plain,), self.__dict__  # pickle finds no class that was made while a program ran


_BAKED: Dict[Type[nn.Module], Type[nn.Module]] = {}


def _baked_class(kind: Type[nn.Module]) -> Type[nn.Module]:
    if kind not in _BAKED:
        _BAKED[kind] = type(f'Baked{kind.__name__}', (BakedMixin, kind), {'plain': kind})
    return _BAKED[kind]


def _new(kind: Type[nn.Module]) -> nn.Module:
    baked: Any = _baked_class(kind)
    return baked.__new__(baked)  # type: ignore[no-any-return]
