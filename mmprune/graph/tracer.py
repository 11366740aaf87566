"""The state of a trace while a forward runs: labels of live tensors, and what rules state about channel ids."""
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .deferred import Deferred
from .factors import HeadLayout, ProductCall
from .idle import COMPUTED, NEVER_RUN, NOT_FOLLOWED, layer_modules
from .label import canonical, compact, constant_along, distinct_slices, take_first, to_axis
from .label_store import Companion, LabelStore
from .nested import output_tensors
from .trace import Axis, Broadcast, Grid, LayerCall, Trace

MODEL_INPUT = "it is the model's input, or comes from an operation without channels"
NOT_RECTANGULAR = 'its channels lie along several axes of a tensor, of which none can become shorter'


class Tracer(LabelStore):
    """Labels of live tensors and everything that rules have stated about channel ids."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.axes: Dict[Tuple[int, Union[int, str]], Axis] = {}
        self.calls: List[LayerCall] = []
        self.module_stack: List[Tuple[str, nn.Module]] = []
        self.paused = False
        self.training_only = False
        #: whether the running function was given a size that a module has written down
        self.size_is_written = False
        #: tensor without labels -> why its channels could not be followed
        self.given_up = WeakTensorKeyDictionary()
        self.deferred = Deferred()
        self.grids: Dict[Tuple[Any, ...], Grid] = {}
        self.broadcasts: List[Broadcast] = []
        self.head_layouts: List[HeadLayout] = []
        self.products: List[ProductCall] = []
        #: names of weights from which their layers compute others, filter by filter but not column by column
        self.standardised: Set[str] = set()
        #: weight name -> conv or linear module; those with an axis count as seen in the end
        self.idle = layer_modules(model, self.names)
        self.layer_weights = {layer.weight for layer in self.idle.values() if layer.reason == NEVER_RUN}
        self.whole_module: Optional[str] = None
        self._counted: Set[str] = set()
        self._ties: List[Tuple[np.ndarray, np.ndarray]] = []
        self._frozen: List[Tuple[np.ndarray, str]] = []

    # labels of tensors

    def set_labels(self, tensor: Tensor, labels: Tensor) -> None:
        """Label a tensor; one whose labels vary along several axes must stay rectangular when channels are removed.

        Raises:
            RuntimeError: The shapes differ.
        """
        if labels.shape != tensor.shape:
            raise RuntimeError(f'labels of shape {tuple(labels.shape)} for an activation of shape '
                               f'{tuple(tensor.shape)} in {self.where()}: a channel rule is wrong')
        labels = canonical(labels)
        if sum(size > 1 for size in labels.shape) > 1:
            self._add_grid(labels, (), NOT_RECTANGULAR)
        self.labels[tensor] = labels.expand(tensor.shape)

    def set_channels(self, tensor: Tensor, ids: Tensor, axis: int) -> None:
        """Label a tensor whose channels lie along one axis, with the id of each index."""
        shape = [1] * tensor.dim()
        shape[axis] = -1
        self.set_labels(tensor, ids.reshape(shape).expand(tensor.shape))

    def label_constant(self, tensor: Tensor, axis: int) -> Tensor:
        """Give a new constant channels of its own along an axis, and return them."""
        ids = self.new_ids(tensor.size(axis))
        self.set_channels(tensor, ids, axis)
        return ids

    def keep_size(self, labels: Tensor, axes: Sequence[int], reason: str, because: Optional[str] = None) -> None:
        """State that axes of a labelled tensor keep their size and order.

        Args:
            labels (Tensor): Labels of the tensor.
            axes (sequence[int]): The axes; those along which the labels do not vary are ignored.
            reason (str): Why the channels are frozen if no other axis can become shorter.
            because (str, optional): Used instead of the reason, and without the name of the running module.
        """
        labels = canonical(labels)
        axes = [axis for axis in axes if labels.size(axis) > 1]
        if axes:
            self._add_grid(labels, tuple(axes), because or f'{reason} in {self.where()}')

    def measure(self, labels: Tensor, axis: int, own: Tensor, reason: str) -> None:
        """State that the size of an axis is written down: where it becomes shorter, these ids go with its indices.

        Args:
            labels (Tensor): Labels of the tensor.
            axis (int): The axis.
            own (Tensor): ``Tensor[size]``, the id of an attribute that goes with each index.
            reason (str): Why an index without a channel must stay; the name of the running module is added.
        """
        labels = canonical(labels)
        ids = distinct_slices(labels, [other for other in range(labels.dim()) if other != axis]).numpy()
        key = (ids.shape, axis, int(own[0]), hash(ids.tobytes()))
        self.grids.setdefault(key, Grid(ids, (), f'{reason} in {self.where()}', (axis, own.numpy())))

    def _add_grid(self, labels: Tensor, fixed: Tuple[int, ...], reason: str) -> None:
        ids = distinct_slices(labels).numpy()
        self.grids.setdefault((ids.shape, fixed, hash(ids.tobytes())), Grid(ids, fixed, reason))

    def broadcast(self, wide: Tensor, narrow: Tensor, reason: str) -> None:
        """State that an element-wise operation repeats ``narrow`` over ``wide``."""
        self.broadcasts.append(Broadcast(wide.numpy(), narrow.numpy(), f'{reason} in {self.where()}'))

    def give_up_on(self, out: Any, reason: str) -> None:
        """State that the channels of an operation's results cannot be followed, and why."""
        for tensor in output_tensors(out):
            self.given_up[tensor] = f'{reason} in {self.where()}'

    def channels_of(self, tensor: Tensor, axis: int) -> Tensor:
        """Return the id of each index of an axis, -1 for no channel; ids that share an index are tied."""
        labels = self.labels_of(tensor)
        if labels is None and tensor in self.constants:
            return self.label_constant(tensor, axis)
        if labels is None:
            return torch.full((tensor.size(axis),), -1)
        rows = distinct_slices(to_axis(labels, axis), [0])
        first = rows[0]
        if len(rows) > 1:
            rest = rows[1:]
            self.tie(rest, first.expand_as(rest))
            if bool((rest[:, first < 0] >= 0).any()):
                self.freeze(rest[:, first < 0], 'it shares a weight column with a value outside every unit')
        return first

    # statements about ids

    def axis(self, tensor: Tensor, dim: int, role: str, groups: int = 1) -> Tensor:
        """Return the ids of an axis of a parameter or buffer, issued when the axis is first seen."""
        key = (id(tensor), dim)
        if key in self.axes and self.axes[key].role != role:
            self.freeze(torch.from_numpy(self.axes[key].ids), f'{self.names[id(tensor)]!r} is used in two ways')
        if key not in self.axes:
            self.axes[key] = Axis(self.names[id(tensor)], dim, role, groups, self.new_ids(tensor.size(dim)).numpy())
        return torch.from_numpy(self.axes[key].ids)

    def attribute(self, module: nn.Module, attribute: str, size: int) -> Tensor:
        """Return the ids of an attribute of a module that is a number of channels, issued when it is first seen."""
        key = (id(module), attribute)
        if key not in self.axes:
            owner = next(name and f'{name}.' for name, other in self.model.named_modules() if other is module)
            self.axes[key] = Axis(f'{owner}{attribute}', 0, 'attribute', 1, self.new_ids(size).numpy())
        return torch.from_numpy(self.axes[key].ids)

    def follow_attribute(self, module: nn.Module, attribute: str, ids: Tensor) -> None:
        """State that an attribute of a module is the number of these channels and must follow a cut."""
        self.tie(self.attribute(module, attribute, len(ids)), ids)

    def tie(self, left: Tensor, right: Tensor) -> None:
        """State that two arrays of ids can only be removed together, element by element; -1 ties nothing."""
        met = (left >= 0) & (right >= 0)
        self._ties.append((left[met].numpy(), right[met].numpy()))

    def tie_or_freeze(self, own: Tensor, ids: Tensor, source: Optional[Tensor] = None) -> None:
        """Tie a tensor's own ids to the channels of ``source`` that they meet; freeze those that meet none (-1)."""
        self.tie(own, ids)
        reason = MODEL_INPUT if source is None else self.given_up.get(source, MODEL_INPUT)
        self.freeze(own[ids < 0], reason, where=False)

    def freeze(self, ids: Tensor, reason: str, where: bool = True) -> None:
        """State that ids must stay, and why; the current module is added to the reason."""
        ids = compact(ids).reshape(-1)
        ids = ids[ids >= 0]
        if ids.numel():
            self._frozen.append((ids.numpy(), f'{reason} in {self.where()}' if where else reason))

    def settle(self, *values: Any) -> None:
        """Freeze the channels that values among these combine, since they meet another tensor."""
        for labels, reason in self.deferred.of(*values):
            self.freeze(labels, reason, where=False)

    def merge_along(self, labels: Tensor, axes: Sequence[int], reason: str, out: Any = None) -> Optional[Tensor]:
        """Tie the ids along axes that an operation combines; freeze them if they vary along these axes only.

        Args:
            labels (Tensor): Labels of what it reads.
            axes (sequence[int]): The axes.
            reason (str): Why the ids are frozen; the name of the running module is added.
            out (Any): Results that hold nothing else: the ids are frozen only where these meet another tensor.

        Returns:
            Tensor or None: The labels with size 1 along the axes; None if they were, or may be, frozen.
        """
        labels = compact(labels)
        first = take_first(labels, axes)
        if constant_along(labels, axes):
            return first
        others = [axis for axis in range(labels.dim()) if axis not in axes]
        wide = first.expand(labels.shape)
        if constant_along(labels, others) or bool(((wide < 0) != (labels < 0)).any()):
            if out is None:
                self.freeze(labels, reason)
            else:
                self.deferred.add(out, compact(labels), f'{reason} in {self.where()}')
            return None
        self.tie(labels, wide)
        return first

    def record_positions(self, weight: Tensor, kind: str, positions: int, samples: int = 0) -> None:
        """Record a linear call inside a function; ``samples`` are its batch where its own module is called, else 0."""
        self._record(LayerCall(self.names[id(weight)], kind, positions, positions, weight.size(0), bool(samples),
                               training_only=self.training_only, samples=samples or 1))

    def record_call(self, weight: Tensor, kind: str, positions: int, out: Tensor, axis: int,
                    repeated: Optional[Tensor] = None, rows: Optional[Tuple[int, int]] = None) -> None:
        """Record a call of a conv or linear layer.

        Args:
            weight (Tensor): Its weight.
            kind (str): ``conv``, ``linear`` or a kind with a counter of its own.
            positions (int): How often each weight element is multiplied.
            out (Tensor): Its result.
            axis (int): The channel axis of the result.
            repeated (Tensor, optional): Ids of the channels that it runs for, each for itself.
            rows (tuple[int, int], optional): The first row that it uses and the one behind the last, where the module
                that owns the weight has another one compute with it.
        """
        channels, name = out.size(axis), self.names[id(weight)]
        by_module = rows is not None or bool(self.module_stack) and self.module_stack[-1][0] == name.rpartition('.')[0]
        self._record(LayerCall(name, kind, positions, out.numel() // channels, channels, by_module,
                               training_only=self.training_only, samples=out.size(0) if axis else 1,
                               channels=None if repeated is None else repeated.numpy(), rows=rows))

    def _record(self, call: LayerCall) -> None:
        """Record a call, unless an earlier example has counted the layer."""
        if self.training_only or call.weight not in self._counted:
            self.calls.append(call)

    def end_example(self) -> None:
        """Let the layers that have run count for nothing more: costs are those of one example."""
        self._counted = {call.weight for call in self.calls if call.weight}

    def record_computed_call(self, weight: Tensor, kind: str, positions: int, out: Tensor, axis: int) -> None:
        """Record a call with a computed weight, whose cost never changes."""
        channels = out.size(axis)
        self.calls.append(LayerCall('', kind, positions, out.numel() // channels, channels, False, tuple(weight.shape),
                                    self.training_only))

    def where(self) -> str:
        """Name the module that is running."""
        name = self.module_stack[-1][0] if self.module_stack else ''
        return f'module {name!r}' if name else 'the model'

    @property
    def module(self) -> Optional[nn.Module]:
        """The module that is running."""
        return self.module_stack[-1][1] if self.module_stack else None

    def tie_companions(self, weight: Tensor, companions: Sequence[Companion]) -> None:
        """Let other tensors of the model follow the axes of a weight that is computed from them."""
        for tensor, axis, weight_axis in companions:
            used = self.axes.get((id(weight), weight_axis))
            if used is not None:
                self.tie(self.axis(tensor, axis, 'affine'), torch.from_numpy(used.ids))

    def note_run(self, module: nn.Module) -> None:
        """Note that a module runs: the reason of an idle layer is no longer that it never does."""
        weight = self.names.get(id(getattr(module, 'weight', None)))
        if weight is not None and weight in self.idle:
            reason = NOT_FOLLOWED if self.whole_module is None else (
                f'it runs inside {self.whole_module}, which is taken whole')
            self.idle[weight] = replace(self.idle[weight], reason=reason)

    @property
    def unseen_layers(self) -> bool:
        """Whether a conv or linear module was never run, nor its weight used by another module."""
        used = {axis.tensor for axis in self.axes.values()}
        return any(layer.reason == NEVER_RUN and layer.weight not in used for layer in self.idle.values())

    def carry_reason(self, args: Any, out: Any) -> None:
        """Pass the reason why inputs have no channels on to results without channels."""
        if len(self.given_up):
            reason = next((self.given_up[tensor] for tensor in output_tensors(args) if tensor in self.given_up), None)
            if reason is not None:
                for tensor in output_tensors(out):
                    if tensor not in self.labels:
                        self.given_up[tensor] = reason

    def result(self) -> Trace:
        """Return everything stated so far."""
        none: np.ndarray = np.zeros(0, dtype=np.int64)
        left, right = (np.concatenate(ids) for ids in zip((none, none), *self._ties))
        loose = {name: labels.numpy() for name, labels in self.loose.items()}
        weights = {axis.tensor for axis in self.axes.values()}
        layers = {axis.layer for axis in self.axes.values() if axis.role in ('out', 'in', 'depthwise')}
        idle = [replace(layer, reason=COMPUTED) if layer.weight in self.computed_with else layer
                for layer in self.idle.values() if layer.weight not in weights and layer.layer not in layers]
        return Trace(self._num_ids, list(self.axes.values()), loose, (left, right), self._frozen, self.calls,
                     list(self.grids.values()), self.broadcasts, idle, self.head_layouts, self.products)

