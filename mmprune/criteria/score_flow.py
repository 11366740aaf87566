"""Importance scores that flow backwards through a network, by the absolute weights of its layers; NISP uses it."""
import inspect
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

LAYERS = ('linear', 'conv1d', 'conv2d', 'conv3d', 'conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d')
NORM_FUNCTIONS = (F.batch_norm, F.instance_norm, F.layer_norm, F.group_norm)
#: Functions that pass a score on unchanged, and so do those of the same name with an underscore.
ACTIVATIONS = (
    'relu', 'relu6', 'leaky_relu', 'prelu', 'rrelu', 'elu', 'celu', 'selu', 'gelu', 'silu', 'mish', 'sigmoid', 'tanh',
    'hardtanh', 'hardsigmoid', 'hardswish', 'softplus', 'logsigmoid', 'softsign', 'tanhshrink', 'softshrink',
    'hardshrink', 'threshold', 'clamp', 'clamp_min', 'clamp_max', 'clip')
PRODUCTS = ('mul', 'mul_', 'multiply', '__mul__', '__rmul__', '__imul__')
DIFFERENCES = ('sub', 'sub_', 'subtract', '__sub__', '__rsub__', '__isub__')


class NoGraphError(RuntimeError):
    """Scores cannot flow through a part of a model."""


class Read(NamedTuple):
    """What a layer read in one call."""

    weight: str  # qualified name of the layer's weight
    x: Tensor  # its input, as part of the graph
    axis: int  # the axis of the channels
    call: int  # number of the call

    @property
    def layer(self) -> str:
        """Name of the module that owns the weight."""
        return self.weight.rpartition('.')[0]


class ScoreFlow(TorchFunctionMode):
    """Run a model as it is, with a graph whose backward pass propagates scores ``s`` instead of gradients.

    A function with a rule returns its own value, with the derivative of a linear function that stands for it:

    * conv and linear layers send ``|W|^T s``, norms ``|gamma| / sigma * s`` (with the running variance, where it is
      used), activations ``s`` (they are Lipschitz with constant 1);
    * a product of two branches, such as a gate, sends ``s`` to both, as a residual add does; a product with a parameter
      sends its absolute value times ``s``;
    * all else sends what its derivative does (a pooling keeps the total); layers take the absolute value of the result.

    Args:
        model (nn.Module): Its parameters require no gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.reads: List[Read] = []
        self.calls = 0
        self.marking = False
        self.followed: Set[int] = set()
        self.scores: Dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, '__name__', '')
        if name in LAYERS:
            return self._layer(func, name, args, kwargs)
        if func in NORM_FUNCTIONS:
            return _replaced(func, args, kwargs, lambda: _normalised(func, args, kwargs))
        if name.rstrip('_') in ACTIVATIONS:
            return _replaced(func, args, kwargs, lambda: (args or tuple(kwargs.values()))[0])
        if len(args) == 2 and name in PRODUCTS + DIFFERENCES:
            return _replaced(func, args, kwargs, lambda: _either(args[0], args[1], name in PRODUCTS))
        return func(*args, **kwargs)

    def _layer(self, func: Callable[..., Tensor], name: str, args: Sequence[Any], kwargs: Dict[str, Any]) -> Tensor:
        if not torch.is_grad_enabled():
            raise NoGraphError('a part of the model runs without a graph (torch.no_grad, or a checkpoint)')
        given = dict(zip(('input', 'weight', 'bias'), args), **kwargs)
        x, weight = given.pop('input'), given.pop('weight')
        given.pop('bias', None)
        out = func(*args, **kwargs).detach()
        axis = out.dim() - (1 if name == 'linear' else weight.dim() - 1)
        if x.requires_grad:
            own = x.clone()  # the model may change x in place later
            absolute = func(own, weight.detach().abs(), None, *args[3:], **given)
            out = out + (absolute - absolute.detach())
        else:
            out = out.requires_grad_().clone()
        tensor = self.names.get(id(weight))
        if tensor is not None:
            if x.requires_grad:
                self.reads.append(Read(tensor, own, axis, self.calls))
            out.register_hook(partial(self._arrived, tensor, axis, self.calls))
            self.calls += 1
        return out

    def _arrived(self, tensor: str, axis: int, call: int, score: Tensor) -> Optional[Tensor]:
        if self.marking:
            self.followed.add(call)
            return None
        score = score.abs()
        total = score.double().movedim(axis, 0).flatten(1).sum(1)
        self.scores[tensor] = self.scores[tensor] + total if tensor in self.scores else total
        return score

    def last_reads(self) -> List[Read]:
        """Return what the last layers read: those whose outputs no other layer reads."""
        self.marking = True
        if self.reads:
            torch.autograd.backward([read.x for read in self.reads], [torch.ones_like(read.x) for read in self.reads],
                                    retain_graph=True)
        self.marking = False
        return [read for read in self.reads if read.call not in self.followed]

    def propagate(self, reads: Sequence[Read], importance: Sequence[Tensor]) -> Dict[str, Tensor]:
        """Return weight -> ``Tensor[output channels]``, the score of what its layer produces.

        Args:
            reads (list[Read]): The final responses.
            importance (list[Tensor[F]]): Their scores; all rows and positions of a feature share its score evenly.
        """
        seeds = []
        for read, score in zip(reads, importance):
            shape = [1] * read.x.dim()
            shape[read.axis] = len(score)
            seeds.append((score.to(read.x) * len(score) / read.x.numel()).view(shape).expand_as(read.x))
        torch.autograd.backward([read.x for read in reads], seeds)
        return self.scores


def _replaced(func: Callable[..., Any], args: Sequence[Any], kwargs: Dict[str, Any],
              linear: Callable[[], Tensor]) -> Any:
    """Return the value of a function with the derivative of a linear function of the same shape."""
    x = (tuple(args) or tuple(kwargs.values()))[0]
    if not any(isinstance(value, Tensor) and value.requires_grad for value in (*args, *kwargs.values())):
        return func(*args, **kwargs)
    stands_for = linear()
    # .data, so that a function that works in place is not recorded in the graph
    value = func(*[arg.data if isinstance(arg, Tensor) else arg for arg in args],
                 **{key: arg.data if isinstance(arg, Tensor) else arg for key, arg in kwargs.items()})
    if stands_for is x and value.data_ptr() == x.data_ptr():
        return x
    return value + (stands_for - stands_for.detach())


def _either(left: Any, right: Any, scale: bool) -> Tensor:
    """Return the linear function that stands for a product (``scale``) or a difference of two operands."""
    carried = [isinstance(side, Tensor) and side.requires_grad for side in (left, right)]
    if all(carried):
        return left + right
    own, other = (left, right) if carried[0] else (right, left)
    if not isinstance(other, Tensor):
        return own * abs(other) if scale else own
    return own * (other if other.dtype == torch.bool else other.abs()) if scale else own + torch.zeros_like(other)


def _normalised(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Dict[str, Any]) -> Tensor:
    """Return the linear function that stands for a norm: ``|weight| / sigma * x``, ``sigma`` a constant."""
    call = inspect.signature(func).bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    x, weight, variance = given['input'], given['weight'], given.get('running_var')
    own = given.get('training', False) or given.get('use_input_stats', True)
    along = (-1, *[1] * (x.dim() - 2))
    if func is F.batch_norm or (variance is not None and not own):
        if variance is None or given.get('training', False):
            variance = x.detach().transpose(0, 1).flatten(1).var(1, unbiased=False)
        out = x / (variance + given['eps']).sqrt().view(along)
    else:
        lead = {F.layer_norm: x.shape[:x.dim() - len(given.get('normalized_shape', ()))], F.instance_norm: x.shape[:2],
                F.group_norm: (len(x), given.get('num_groups'))}[func]
        blocks = x.reshape(*lead, -1)
        variance = blocks.detach().var(-1, unbiased=False, keepdim=True)
        out = (blocks / (variance + given['eps']).sqrt()).reshape(x.shape)
    if weight is None:
        return out
    return out * weight.detach().abs().view(weight.shape if func is F.layer_norm else along)
