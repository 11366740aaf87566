"""Run a model's real forward once and write down which channels belong together.

Nothing is interpreted: the forward runs as it is, and each activation carries a parallel label tensor
(:mod:`mmprune.label`). Layers are seen as public functions (:mod:`mmprune.layer_rule`), everything else as aten
operations (:mod:`mmprune.op_rule`). The result is a
:class:`~mmprune.trace.Trace`: the axes of the model's tensors with one id an
index, the ties between ids, the frozen ids with reasons, and the layer calls with their shapes.
"""
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from .label import compact, constant_along, take_first, to_axis
from .layer_rule import LAYER_RULES
from .op_rule import OP_RULES, labelled, unknown
from .trace import Axis, LayerCall, Trace

MODEL_INPUT = "it is the model's input, or comes from an operation without channels"


class Tracer:
    """Labels of live tensors and everything that rules have said about channel ids."""

    def __init__(self, model: nn.Module) -> None:
        self.names = _tensor_names(model)
        self.labels = WeakTensorKeyDictionary()
        self.axes: Dict[Tuple[int, int], Axis] = {}
        self.loose: Dict[str, Tensor] = {}
        self.calls: List[LayerCall] = []
        self.module_stack: List[str] = []
        self.paused = False
        self.current: Callable[..., Any] = torch.Tensor.add
        self._num_ids = 0
        self._ties: List[Tuple[np.ndarray, np.ndarray]] = []
        self._frozen: List[Tuple[np.ndarray, str]] = []

    # labels of tensors

    def new_ids(self, count: int) -> Tensor:
        """Issue ``count`` fresh channel ids, ``Tensor[count]``."""
        self._num_ids += count
        return torch.arange(self._num_ids - count, self._num_ids)

    def is_tensor_of_model(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is a parameter or buffer of the traced model."""
        return id(tensor) in self.names

    def labels_of(self, tensor: Tensor) -> Optional[Tensor]:
        """Return the labels of a tensor, or None if it holds no channel.

        A parameter that is used element by element (layer scale, position embedding) gets an id an element.
        """
        labels = self.labels.get(tensor)
        if labels is None and tensor.is_floating_point() and id(tensor) in self.names and tensor.dim() > 0:
            labels = self.new_ids(tensor.numel()).view(tensor.shape)
            self.loose[self.names[id(tensor)]] = labels
            self.labels[tensor] = labels
        return labels

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Label a tensor; the shapes must agree."""
        if labels.shape != tensor.shape:
            raise RuntimeError(f'labels of shape {tuple(labels.shape)} for an activation of shape '
                               f'{tuple(tensor.shape)} in {self.where()}: a channel rule is wrong')
        self.labels[tensor] = labels

    def channels_of(self, tensor: Tensor, axis: int) -> Tensor:
        """Return one id an index of an axis; ids that share an index are tied. -1 where there is no channel."""
        labels = self.labels_of(tensor)
        if labels is None:
            return torch.full((tensor.size(axis),), -1)
        rows = to_axis(labels, axis)
        first = rows[0]
        if len(rows) > 1:
            rest = rows[1:]
            both = (rest >= 0) & (first >= 0)
            self.tie(rest[both], first.expand_as(rest)[both])
            if bool((rest[:, first < 0] >= 0).any()):
                self.freeze(rest[:, first < 0], 'it shares a weight column with a value outside every unit')
        return first

    # statements about ids

    def axis(self, tensor: Tensor, dim: int, role: str, groups: int = 1) -> Tensor:
        """Return the ids of an axis of a parameter or buffer, issued when it is first seen."""
        key = (id(tensor), dim)
        if key not in self.axes:
            ids = self.new_ids(tensor.size(dim))
            self.axes[key] = Axis(self.names[id(tensor)], dim, role, groups, ids.numpy())
        return torch.from_numpy(self.axes[key].ids)

    def tie(self, left: Tensor, right: Tensor) -> None:
        """State that two arrays of ids belong together, element by element."""
        if left.numel():
            self._ties.append((left.reshape(-1).numpy(), right.reshape(-1).numpy()))

    def tie_or_freeze(self, own: Tensor, ids: Tensor) -> None:
        """Tie a tensor's own ids to the channels it meets, or freeze them where it meets none (-1)."""
        met = ids >= 0
        self.tie(own[met], ids[met])
        self.freeze(own[~met], MODEL_INPUT, where=False)

    def freeze(self, ids: Tensor, reason: str, where: bool = True) -> None:
        """State that ids must stay, and why; the current module is added to the reason."""
        ids = compact(ids).reshape(-1)
        ids = ids[ids >= 0]
        if ids.numel():
            self._frozen.append((ids.numpy(), f'{reason} in {self.where()}' if where else reason))

    def merge_along(self, labels: Tensor, axes: Sequence[int], reason: str) -> Optional[Tensor]:
        """Tie the ids along axes that an operation combines; freeze them if nothing varies across the others.

        Returns:
            Tensor or None: The labels with size 1 along the axes, None if they were frozen.
        """
        labels = compact(labels)
        first = take_first(labels, axes)
        if constant_along(labels, axes):
            return first
        others = [axis for axis in range(labels.dim()) if axis not in axes]
        if constant_along(labels, others):
            self.freeze(labels, reason)
            return None
        wide = first.expand(labels.shape)
        if bool(((wide < 0) != (labels < 0)).any()):
            self.freeze(labels, reason)
            return None
        met = labels >= 0
        self.tie(labels[met], wide[met])
        return first

    def record_call(self, weight: Tensor, kind: str, positions: int, out: Tensor, axis: int) -> None:
        """Write down a call of a conv or linear layer."""
        channels, name = out.size(axis), self.names[id(weight)]
        by_module = bool(self.module_stack) and self.module_stack[-1] == name.rpartition('.')[0]
        self.calls.append(LayerCall(name, kind, positions, out.numel() // channels, channels, by_module))

    def record_computed_call(self, weight: Tensor, kind: str, positions: int, out: Tensor, axis: int) -> None:
        """Write down a call with a weight that is no parameter: it always costs the same."""
        channels = out.size(axis)
        self.calls.append(LayerCall('', kind, positions, out.numel() // channels, channels, False, tuple(weight.shape)))

    def where(self) -> str:
        """Name the module that is running."""
        return f'module {self.module_stack[-1]!r}' if self.module_stack and self.module_stack[-1] else 'the model'

    # what the modes call

    def run_on(self, labels: Tensor, args: Any, kwargs: Any) -> Any:
        """Run the current operation on labels in place of its first argument; labels live on the CPU."""
        rest = [tree_map(_to_cpu, value) for value in args[1:]]
        return self.current(labels, *rest, **tree_map(_to_cpu, kwargs))

    def after_op(self, op: str, args: Any, kwargs: Any, out: Any) -> None:
        """Apply the rule of an aten operation."""
        rule = OP_RULES.get(op)
        if rule is not None:
            rule(self, op, args, kwargs, out)
        elif labelled(self, args, kwargs):
            unknown(self, op, args, kwargs, out)

    def result(self) -> Trace:
        """Return everything stated so far."""
        empty: np.ndarray = np.zeros(0, dtype=np.int64)
        left = np.concatenate([pair[0] for pair in self._ties]) if self._ties else empty
        right = np.concatenate([pair[1] for pair in self._ties]) if self._ties else empty
        loose = {name: labels.numpy() for name, labels in self.loose.items()}
        return Trace(self._num_ids, list(self.axes.values()), loose, (left, right), self._frozen, self.calls)


class _OpMode(TorchDispatchMode):
    """Show every aten operation to the tracer."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.tracer.paused:
            self.tracer.current = func
            with torch.no_grad():
                self.tracer.after_op(func._schema.name.split('::')[-1].rstrip('_'), args, kwargs, out)
        return out


class _LayerMode(TorchFunctionMode):
    """Show layer functions to the tracer, whole."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, '__name__', '')
        rule = LAYER_RULES.get(name)
        if rule is None or self.tracer.paused:
            return func(*args, **kwargs)
        self.tracer.paused = True
        try:
            out = func(*args, **kwargs)
            with torch.no_grad():
                rule(self.tracer, name, args, kwargs, out)
        finally:
            self.tracer.paused = False
        return out


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _tensor_names(model: nn.Module) -> Dict[int, str]:
    """Return ``id(tensor) -> qualified name`` of all parameters and buffers; the first name wins."""
    names: Dict[int, str] = {}
    for prefix, module in model.named_modules():
        own = [*module._parameters.items(), *module._buffers.items()]
        for name, tensor in own:
            if tensor is not None:
                names.setdefault(id(tensor), f'{prefix}.{name}' if prefix else name)
    return names


@contextmanager
def _module_names(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Keep the name of the running module on the tracer's stack."""
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(
            lambda module, args, name=name: tracer.module_stack.append(name)))
        handles.append(module.register_forward_hook(lambda module, args, out: _pop(tracer)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pop(tracer: Tracer) -> None:
    tracer.module_stack.pop()


def output_tensors(value: Any) -> List[Tensor]:
    """Return the tensors in a nested output of lists, tuples, dicts and objects with tensor attributes."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in output_tensors(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in output_tensors(item)]
    if hasattr(value, '__dict__') and not isinstance(value, (type, nn.Module)) and not callable(value):
        return output_tensors(vars(value))  # a dataclass, a data element
    return []


def trace_model(model: nn.Module, forward: Callable[[nn.Module], Any]) -> Trace:
    """Trace one forward pass in eval mode.

    Args:
        model (nn.Module): The model; its parameters, buffers and training flags are unchanged afterwards.
        forward (Callable): Called with the model; runs it and returns its outputs.

    Returns:
        Trace: Axes, ties, frozen ids and layer calls.
    """
    tracer = Tracer(model)
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # With gradients enabled attention is not collapsed into one fused operation.
        with torch.enable_grad(), _module_names(model, tracer), _OpMode(tracer), _LayerMode(tracer):
            outputs = forward(model)
    finally:
        for module, flag in training.items():
            module.training = flag
    tracer.module_stack = []
    for tensor in output_tensors(outputs):
        labels = tracer.labels.get(tensor)
        if labels is not None:
            tracer.freeze(labels, 'it is an output of the model', where=False)
    return tracer.result()
