"""Neuron importance score propagation: Yu et al., NISP, CVPR 2018; its feature ranking: Roffo et al., ICCV 2015."""
import inspect
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from ..equivalence import Comparable, double_copy
from ..registry import CRITERIA
from ..unit import ChannelUnit
from .criterion import Calibration, Criterion, CriterionError, _known, inputs_seen

LAYERS = ('linear', 'conv1d', 'conv2d', 'conv3d', 'conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d')
NORMS = (F.batch_norm, F.instance_norm, F.layer_norm, F.group_norm)
#: Functions that pass a score on as it is, besides those of the same name with an underscore.
ACTIVATIONS = (
    'relu', 'relu6', 'leaky_relu', 'prelu', 'rrelu', 'elu', 'celu', 'selu', 'gelu', 'silu', 'mish', 'sigmoid', 'tanh',
    'hardtanh', 'hardsigmoid', 'hardswish', 'softplus', 'logsigmoid', 'softsign', 'tanhshrink', 'softshrink',
    'hardshrink', 'threshold', 'clamp', 'clamp_min', 'clamp_max', 'clip')
PRODUCTS = ('mul', 'mul_', 'multiply', '__mul__', '__rmul__', '__imul__')
DIFFERENCES = ('sub', 'sub_', 'subtract', '__sub__', '__rsub__', '__isub__')


@CRITERIA.register_module()
class NISP(Criterion):
    """``s_k = |W_{k+1}|^T s_{k+1}``: what the final responses owe to a channel, layer by layer from the end.

    The final responses are the inputs of the last conv and linear layers before the outputs. Their scores are those of
    :func:`inf_fs` over the calibration data; they then go backwards through the network, neuron by neuron, and the
    score of a channel is that of all its positions (and of all calls of its layer):

    * conv and linear layers send ``|W|^T s``, norms ``|gamma| / sigma * s`` (with the running variance, where it is
      used), activations ``s`` (they are Lipschitz with constant 1);
    * a residual add gives ``s`` to both branches, and so does a product of two branches, such as a gate; a product with
      a parameter sends its absolute value times ``s``;
    * poolings, concats and everything else send what their derivative does, which for a pooling keeps the total.

    A layer's score is that of its own outputs, before the norm that follows. Where a function has no rule above, what
    arrives at the next layer counts by its absolute value. Scores go through a copy of the model in float64 on the CPU.

    Args:
        final (str): Scores of the final responses: ``inf_fs``, or ``ones``, for which no batch is looked at.
        alpha (float): Weight, from 0 to 1, of the spread of a response against its independence in :func:`inf_fs`.
        samples (int): Samples that :func:`inf_fs` ranks at most, evenly from all that were seen; each position of a
            feature map is a sample.
        combine (str): See :class:`Criterion`; here of the layers that produce a unit.
        normalize (str): See :class:`Criterion`.

    Raises:
        ValueError: An option is out of its range.
    """

    needs_data = True

    def __init__(self, final: str = 'inf_fs', alpha: float = 0.5, samples: int = 1000, combine: str = 'mean',
                 normalize: str = 'none') -> None:
        super().__init__(combine, normalize)
        self.final = _known('final', final, {'inf_fs': None, 'ones': None})
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha is {alpha}; it must lie between 0 and 1')
        if samples < 2:
            raise ValueError(f'samples is {samples}; it must be 2 or more')
        self.alpha, self.samples = alpha, samples

    def observe(self, calibration: Calibration) -> None:
        """Rank the final responses on all batches, and propagate their scores through a run on the demo input.

        Raises:
            CriterionError: No layer reads what another one produces, or the last ones see no data.
        """
        model = double_copy(self.mutator.model).requires_grad_(False)  # sums of absolute values outgrow float32
        flow = ScoreFlow(model)
        with torch.enable_grad(), Comparable(), flow:
            self.mutator.demo_input(model)
        last = flow.last_reads()
        if not last:
            raise CriterionError(f'NISP found no layer of {type(model).__name__} that reads what another one produces:'
                                 ' there is nothing to propagate')
        if self.final == 'ones':
            importance = [torch.ones(read.x.size(read.axis)) for read in last]
        else:
            ranked = self._rank({read.layer for read in last}, calibration)
            importance = [ranked[read.layer] for read in last]
        self.scores = flow.propagate(last, importance)

    def _rank(self, layers: Set[str], calibration: Calibration) -> Dict[str, Tensor]:
        """Return the scores ``Tensor[F]`` of the inputs of layers."""
        seen: Dict[str, List[Tensor]] = {layer: [] for layer in layers}

        def see(layer: str, x: Tensor) -> None:
            seen[layer].append(_evenly(x.movedim(1, -1).flatten(0, -2), self.samples).clone())

        with inputs_seen({layer: self.mutator.model.get_submodule(layer) for layer in sorted(layers)}, see):
            for batch in calibration.batches:
                calibration.loss(batch)
        unseen = sorted(layer for layer in layers if sum(map(len, seen[layer])) < 2)
        if unseen:
            raise CriterionError(f'NISP ranks the inputs of the last layers, and {unseen[0]!r} saw fewer than 2 samples'
                                 " in the calibration data; give it more, or take final='ones'")
        return {layer: inf_fs(_evenly(torch.cat(parts), self.samples), self.alpha) for layer, parts in seen.items()}

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the scores of each layer that produces the unit."""
        scores = []
        for member in unit.channels.producers:
            if member.axis.tensor in self.scores:
                score = self.scores[member.axis.tensor]
                size = self.tensor(member).size(member.axis.dim)
                if member.axis.role == 'depthwise':  # a transposed one has one row for all outputs of a channel
                    score = score.reshape(size, -1).sum(1)
                else:  # a transposed one has one column for all groups
                    score = score.reshape(-1, size).sum(0)
                scores.append(score[self.mutator.positions(unit, member).to(score.device)].sum(1))
        return scores

    def missing(self, unit: ChannelUnit) -> str:
        """Say that nothing arrives at the unit."""
        return 'nothing that the last layers read depends on it; leave the unit out (exclude)'


def inf_fs(features: Tensor, alpha: float = 0.5) -> Tensor:
    """Rank features by the energy of all paths through them: Inf-FS, Roffo et al., ICCV 2015.

    ``A_ij = alpha * max(std_i, std_j) + (1 - alpha) * (1 - |spearman_ij|)``, ``S = (I - r A)^-1 - I`` with ``r = 0.9 /
    spectral radius of A``; the score of a feature is the sum of its row. A feature that is always the same adds nothing
    to others and counts as correlated with all of them. It takes time in ``F^3``.

    Args:
        features (Tensor[T, F]): Samples.
        alpha (float): From 0 to 1.

    Returns:
        Tensor[F]: In float64.
    """
    x = features.double()
    deviation = x.std(0)
    columns = x.t().contiguous()
    ordered = columns.sort(1).values
    # the mean of the first and the last place of each value among the sorted ones: tied samples share a rank
    rank = (torch.searchsorted(ordered, columns) + torch.searchsorted(ordered, columns, right=True)).double()
    rank -= rank.mean(1, keepdim=True)
    length = rank.norm(dim=1)
    unit = rank / length.clamp_min(torch.finfo(rank.dtype).tiny)[:, None]
    correlation = (unit @ unit.t()).abs().clamp_max(1.0)
    constant = length == 0
    correlation[constant] = correlation[:, constant] = 1.0
    graph = alpha * torch.maximum(deviation[:, None], deviation) + (1 - alpha) * (1 - correlation)
    radius = torch.linalg.eigvalsh(graph).abs().max()
    if radius == 0:
        return torch.zeros_like(deviation)
    identity = torch.eye(len(graph), dtype=graph.dtype, device=graph.device)
    return torch.linalg.solve(identity - 0.9 / radius * graph, torch.ones_like(deviation)) - 1.0


class Read(NamedTuple):
    """What a layer read in one call.

    Attributes:
        weight (str): Qualified name of the layer's weight.
        x (Tensor): Its input, as part of the graph.
        axis (int): Of the channels.
        call (int): Number of the call.
    """

    weight: str
    x: Tensor
    axis: int
    call: int

    @property
    def layer(self) -> str:
        """Name of the module that owns the weight."""
        return self.weight.rpartition('.')[0]


class ScoreFlow(TorchFunctionMode):
    """Run a model as it is, with a graph whose backward pass takes scores where it would take gradients.

    Each function that has a rule for scores gives its own value, and the derivative of another one that is linear.

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
        if func in NORMS:
            return _replaced(func, args, kwargs, lambda: _normalised(func, args, kwargs))
        if name.rstrip('_') in ACTIVATIONS:
            return _replaced(func, args, kwargs, lambda: (args or tuple(kwargs.values()))[0])
        if len(args) == 2 and name in PRODUCTS:
            return _replaced(func, args, kwargs, lambda: _either(args[0], args[1], scale=True))
        if len(args) == 2 and name in DIFFERENCES:
            return _replaced(func, args, kwargs, lambda: _either(args[0], args[1], scale=False))
        return func(*args, **kwargs)

    def _layer(self, func: Callable[..., Tensor], name: str, args: Sequence[Any], kwargs: Dict[str, Any]) -> Tensor:
        given = dict(zip(('input', 'weight', 'bias'), args), **kwargs)
        x, weight = given.pop('input'), given.pop('weight')
        given.pop('bias', None)
        out = func(*args, **kwargs).detach()
        axis = out.dim() - (1 if name == 'linear' else weight.dim() - 1)
        if x.requires_grad:
            own = x.clone()  # stays what it is when the tensor is changed in place
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
        """Return what those calls read whose outputs no further layer reads."""
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
            importance (list[Tensor[F]]): Their scores; one is shared by all rows and positions of its feature.
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
    """Return the value of a function with the derivative of a linear one of the same shape."""
    x = (tuple(args) or tuple(kwargs.values()))[0]
    if not any(isinstance(value, Tensor) and value.requires_grad for value in (*args, *kwargs.values())):
        return func(*args, **kwargs)
    stands_for = linear()
    # the data, as a function that works in place shall leave no trace in the graph
    value = func(*[arg.data if isinstance(arg, Tensor) else arg for arg in args],
                 **{key: arg.data if isinstance(arg, Tensor) else arg for key, arg in kwargs.items()})
    if stands_for is x and value.data_ptr() == x.data_ptr():
        return x
    return value + (stands_for - stands_for.detach())


def _either(left: Any, right: Any, scale: bool) -> Tensor:
    """Return what stands for a product (``scale``) or a difference of two operands."""
    carried = [isinstance(side, Tensor) and side.requires_grad for side in (left, right)]
    if all(carried):
        return left + right
    own, other = (left, right) if carried[0] else (right, left)
    if not isinstance(other, Tensor):
        return own * abs(other) if scale else own
    return own * other.abs() if scale else own + torch.zeros_like(other)


def _normalised(func: Callable[..., Tensor], args: Sequence[Any], kwargs: Dict[str, Any]) -> Tensor:
    """Return what stands for a norm: ``|weight| / sigma * x``, its statistics taken as constants."""
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


def _evenly(rows: Tensor, count: int) -> Tensor:
    """Return at most so many rows, from the first to the last."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).long()]
