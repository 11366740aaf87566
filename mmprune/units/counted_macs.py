"""Multiply-adds counted while a model runs, apart from the arithmetic of :mod:`~mmprune.units.complexity`."""
import math
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, NamedTuple, Sequence

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..graph.nested import output_tensors
from ..graph.watching import watched
from .copies import float_copy
from .layer import is_deformable


class MacsByKind(NamedTuple):
    """Multiply-adds of a forward pass.

    Attributes:
        convolutions (int): Of convolutions, deformable ones too.
        matrices (int): Of linear layers, the projections of fused attention, and all products with one parameter.
    """

    convolutions: int
    matrices: int


def counted_macs(model: nn.Module, forward: Callable[[nn.Module], Any]) -> int:
    """Return the multiply-adds that :func:`macs_by_kind` counts, of both kinds."""
    return sum(macs_by_kind(model, forward))


def macs_by_kind(model: nn.Module, forward: Callable[[nn.Module], Any]) -> MacsByKind:
    """Run a copy of a model in float32 and eval mode and count its multiply-adds.

    Counted are conv and linear functions, whichever module calls them, deformable convolutions, as modules and as
    functions, the projections of fused attention, and products of matrices one of which is a parameter.
    """
    counter = _Counter()
    copied = float_copy(model).eval()
    compiled = [item for item in copied.named_modules() if is_deformable(item[1])]  # a function mode cannot see them
    with watched(compiled, counter.enter_module, counter.count_module), counter.functions(), torch.no_grad(), counter:
        forward(copied)
    return MacsByKind(counter.convolutions, counter.matrices)


#: Function of mmcv -> where its weight is among the arguments of its forward.
WEIGHT_OF = {'DeformConv2dFunction': 3, 'ModulatedDeformConv2dFunction': 4}


class _Counter(TorchFunctionMode):
    """Count multiply-adds of function calls.

    mmengine's FlopAnalyzer, even by its conv and linear operators only, is equal on 12 small nets but misses deformable
    convolutions (209,088 of 245,952) and fails on a checkpointed net; torch 2.0 has no FlopCounterMode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = self.matrices = 0
        self._inside = False  # a deformable module, which counts for the function that it calls

    def enter_module(self, name: str, module: Any, args: Any, kwargs: Any) -> None:
        self._inside = True

    def count_module(self, name: str, module: Any, args: Any, kwargs: Any, out: torch.Tensor) -> None:
        self._inside = False
        self.convolutions += out.numel() * module.weight[0].numel()

    @contextmanager
    def functions(self) -> Iterator[None]:
        """Count the functions of mmcv that deformable convolutions are, for heads that call them without a module."""
        found = [(cls, WEIGHT_OF[cls.__name__]) for cls in torch.autograd.Function.__subclasses__()
                 if cls.__name__ in WEIGHT_OF]
        plain = {cls: cls.__dict__['forward'] for cls, _ in found}

        def counting(forward: Any, place: int) -> Any:
            def count(*args: Any) -> Any:
                out = forward(*args)
                self.convolutions += 0 if self._inside else out.numel() * args[place][0].numel()
                return out
            return staticmethod(count)

        for cls, place in found:
            cls.forward = counting(plain[cls].__func__, place)
        try:
            yield
        finally:
            for cls, forward in plain.items():
                cls.forward = forward

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, '__name__', '')
        if name == 'linear':
            self.matrices += out.numel() * _weight_of(args, kwargs).size(-1)
        elif name.startswith('conv'):
            reads = args[0] if args else kwargs['input']
            self.convolutions += (reads if 'transpose' in name else out).numel() * _weight_of(args, kwargs)[0].numel()
        elif name == 'multi_head_attention_forward':
            self.matrices += _macs_of_projections(args, kwargs)
        elif name in ('matmul', '__matmul__', '__rmatmul__', 'mm', 'mv', 'bmm', 'addmm', 'baddbmm', 'einsum'):
            self.matrices += _macs_of_product(name, (*args, *kwargs.values()))
        return out


def _weight_of(args: Any, kwargs: Any) -> torch.Tensor:
    """Return the weight of a call of a conv or linear function."""
    return args[1] if len(args) > 1 else kwargs['weight']  # type: ignore[no-any-return]


def _macs_of_product(name: str, args: Any) -> int:
    """Return the multiply-adds of a matrix product with a parameter; 0 for one of two activations."""
    tensors = output_tensors(list(args[1:] if name in ('addmm', 'baddbmm', 'einsum') else args))
    if sum(isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter) for tensor in tensors) != 1:
        return 0
    if name == 'einsum':
        return _macs_of_sum(args[0].replace(' ', '').partition('->')[0].split(','), tensors)
    left, right = reversed(tensors) if name == '__rmatmul__' else tensors
    return int(left.numel() * (right.size(-1) if right.dim() > 1 else 1))


def _macs_of_sum(terms: Sequence[str], tensors: Sequence[torch.Tensor]) -> int:
    """Return the multiply-adds of an einsum: the sizes of its letters, and of what dots stand for, multiplied."""
    sizes: Dict[str, int] = {}
    for term, tensor in zip(terms, tensors):
        front, dots, back = term.partition('...')
        sizes.update(zip(front, tensor.shape))
        sizes.update(zip(back, tensor.shape[tensor.dim() - len(back):]))
        if dots:
            between = math.prod(tensor.shape[len(front):tensor.dim() - len(back)])
            sizes[dots] = max(sizes.get(dots, 1), between)
    return math.prod(sizes.values())


def _macs_of_projections(args: Any, kwargs: Any) -> int:
    """Return the multiply-adds of the projections of query, key, value and result in a multi-head attention."""
    rows = [x.numel() // x.size(-1) for x in (*args[:3], args[0])]
    packed = args[5]
    weights = [kwargs[f'{name}_proj_weight'] for name in 'qkv'] if packed is None else packed.chunk(3)
    return sum(count * weight.numel() for count, weight in zip(rows, (*weights, args[11])))
