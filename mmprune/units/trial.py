"""The trial cut: cut a copy of the model once before anything is pruned, and find the units that break it.

A trace cannot see a size that is written into a forward (``x[:, :64]``, ``split(x, 26)``): the dense model runs the
same with it. So half of every unit is cut at random, in a float64 copy, and compared with the masked dense model, in
eval and train mode. Where that fails, bisecting finds the units at fault.
"""
import copy
from typing import Any, Collection, ContextManager, Dict, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..graph.capture import ERRORS
from ..graph.idle import CONV_OR_LINEAR
from ..graph.trace import Axis
from ..graph.watching import watched
from .equivalence import (
    Masks,
    double_copy,
    mask_dense,
    outputs,
    random_masks,
    randomise,
    relative_difference,
    sharing_copy,
)
from .surgery import Surgery
from .unit import ChannelUnit

#: Relative difference above which a cut has changed the function; rounding in float64 stays far below.
TOLERANCE = 1e-7


class TrialInput(Protocol):
    """A demo input that knows cheaper ones."""

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its outputs."""

    def for_trial(self) -> Sequence['TrialInput']:
        """Return inputs to try, the cheapest first."""


class Run(NamedTuple):
    """What one forward pass of a model gave.

    Attributes:
        outputs (list[Tensor]): Of the model.
        layers (list[tuple[str, Tensor]]): Output of every call of a conv or linear module, in order.
    """

    outputs: List[Tensor]
    layers: List[Tuple[str, Tensor]]


class Difference(NamedTuple):
    """The first place where two runs differ.

    Attributes:
        size (float): Relative difference; 0 where there is none above the tolerance.
        layer (str, optional): Layer, None for the outputs of the model.
    """

    size: float
    layer: Optional[str]


class TrialCut:
    """Cuts of one model, compared with the masked dense model layer by layer.

    Args:
        model (nn.Module): The dense model; it is not changed.
        units (list[ChannelUnit]): Its units; they are not changed.
        demo_input (TrialInput): How to run it.
    """

    def __init__(self, model: nn.Module, units: Sequence[ChannelUnit], demo_input: TrialInput) -> None:
        self.dense = double_copy(model)
        randomise(self.dense, seed=0)
        self.units = units
        # about half of every unit in both modes; then most of some units and little of the others, and the reverse
        self.cuts = [(random_masks(units, ratio=0.5, seed=0, spread=0.25), (False, True)),
                     *((masks, (False,)) for masks in uneven_masks(units))]
        #: identity of a weight -> the axis of its rows, of layers that units touch
        self.rows = self._rows()
        self.candidates = demo_input.for_trial() if hasattr(demo_input, 'for_trial') else [demo_input]
        #: training -> the input that the dense model takes, None if there is none
        self.inputs: Dict[bool, Optional[TrialInput]] = {}

    def _rows(self) -> Dict[int, Axis]:
        tensors = dict([*self.dense.named_parameters(), *self.dense.named_buffers()])
        axes = {member.axis.tensor: member.axis for unit in self.units for member in unit.channels.producers}
        return {id(tensors[name]): axis for name, axis in axes.items()}

    def failure(self, units: Sequence[ChannelUnit]) -> Optional[str]:
        """Cut the units in several ways and return what is wrong with a cut model, or None."""
        for masks, modes in self.cuts:
            failure = self._failure({unit.name: masks[unit.name] for unit in units}, modes)
            if failure is not None:
                return failure
        return None

    def _failure(self, masks: Masks, modes: Sequence[bool]) -> Optional[str]:
        cut = sharing_copy(self.dense)
        surgery = Surgery(cut, [copy.copy(unit) for unit in self.units])
        surgery.cut(masks)
        dense: Optional[nn.Module] = None
        for training in modes:
            before: Optional[Run] = None
            if training not in self.inputs:
                dense = mask_dense(self.dense, self.units, masks) if dense is None else dense
                before = self._choose_input(dense, training)
            forward = self.inputs[training]
            if forward is None:
                continue
            running = _Running()
            try:
                with running.watch(cut):
                    after = run(cut, forward, training)
            except ERRORS as error:
                return (f'cutting it breaks the forward of {running} ({_first_line(error)}): where a size is written '
                        'down there, take it from the shape of the tensor')
            dense = mask_dense(self.dense, self.units, masks) if dense is None else dense
            before = run(dense, forward, training) if before is None else before
            found = self.first_difference(before, after, surgery)
            if found.size and found.size > 100 * self._noise(dense, before, forward, training, found.layer):
                place = 'seen in the outputs only' if found.layer is None else f'first seen in layer {found.layer!r}'
                return (f'cutting it changes what the model computes by {found.size:.1e} ({place}): the forward before '
                        'it depends on the number or the order of channels')
        return None

    def _choose_input(self, dense: nn.Module, training: bool) -> Optional[Run]:
        """Find the cheapest input on which the dense model runs; return that run, or None where there is none."""
        error: Optional[Exception] = None
        for candidate in self.candidates:
            try:
                found = run(dense, candidate, training)
            except ERRORS as raised:
                error = raised
            else:
                self.inputs[training] = candidate
                return found
        self.inputs[training] = None
        print_log(f'the dense model does not run on the demo input in {"train" if training else "eval"} mode '
                  f'({error}): the trial cut leaves that mode out', logger='current', level=30)
        return None

    def first_difference(self, before: Run, after: Run, surgery: Surgery) -> Difference:
        """Compare two runs, layers first.

        Args:
            before (Run): Of the masked dense model.
            after (Run): Of the cut model.
            surgery (Surgery): That of the cut model: which rows its layers have kept.
        """
        if [layer for layer, _ in before.layers] != [layer for layer, _ in after.layers]:
            return Difference(float('inf'), None)  # the forward has taken another way
        for (layer, dense), (_, cut) in zip(before.layers, after.layers):
            change = relative_difference([self._kept_rows(layer, dense, surgery)], [cut])
            if not change < TOLERANCE:
                return Difference(change, layer)
        change = relative_difference(before.outputs, after.outputs)
        return Difference(0.0 if change < TOLERANCE else change, None)

    def _kept_rows(self, layer: str, out: Tensor, surgery: Surgery) -> Tensor:
        """Return the channels of a layer's output that the cut model has kept."""
        module = self.dense.get_submodule(layer)
        axis = self.rows.get(id(module.weight))
        if axis is None:
            return out
        dim = -1 if isinstance(module, nn.Linear) else out.dim() - module.weight.dim() + 1
        kept: np.ndarray = surgery.layout(axis.tensor)[axis.dim].astype(int)
        times = out.size(dim) // len(axis.ids)  # of a transposed conv with groups the weight holds the rows of one
        if axis.role == 'depthwise':
            kept = (kept[:, None] * times + np.arange(times)).reshape(-1)
        else:
            kept = (np.arange(times)[:, None] * len(axis.ids) + kept).reshape(-1)
        return out.index_select(dim, torch.from_numpy(kept))

    def _noise(self, dense: nn.Module, before: Run, forward: TrialInput, training: bool, layer: Optional[str]) -> float:
        """Return how far rounding alone moves a layer of the dense model, or its outputs: weights differ by 1e-15."""
        other = sharing_copy(dense)
        generator = torch.Generator().manual_seed(0)
        for parameter in other.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.data = parameter.data * (1 + 1e-15 * noise)
        moved = run(other, forward, training)
        if layer is None:
            return relative_difference(before.outputs, moved.outputs)
        pairs = [(a, b) for (name, a), (_, b) in zip(before.layers, moved.layers) if name == layer]
        return max(relative_difference([a], [b]) for a, b in pairs)


def uneven_masks(units: Sequence[ChannelUnit]) -> List[Dict[str, np.ndarray]]:
    """Return two sets of masks: an eighth of a random half of the units stays and of the others goes; the reverse."""
    random = np.random.RandomState(1)
    heavy = random.rand(len(units)) < 0.5
    sets: List[Dict[str, np.ndarray]] = []
    for flip in (False, True):
        masks: Dict[str, np.ndarray] = {}
        for unit, most in zip(units, heavy ^ flip):
            count = len(unit.kept)
            eighth = max(1, count // 8)
            dropped = min(count - 1, count - eighth if most else eighth)
            masks[unit.name] = np.ones(count, dtype=bool)
            masks[unit.name][random.permutation(count)[:dropped]] = False
        sets.append(masks)
    return sets


def run(model: nn.Module, forward: TrialInput, training: bool) -> Run:
    """Run a model on an input and keep what its conv and linear modules and the model itself return."""
    layers: List[Tuple[str, Tensor]] = []

    def keep(layer: str, module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        layers.append((layer, out))

    with watched([item for item in model.named_modules() if isinstance(item[1], CONV_OR_LINEAR)], after=keep):
        return Run(outputs(model, forward, training), layers)


class _Running:
    """The modules that are running; after an error, those that were."""

    def __init__(self) -> None:
        self.stack: List[Tuple[str, nn.Module]] = []

    def watch(self, model: nn.Module) -> ContextManager[None]:
        """Watch a model's forward."""
        self.stack = []
        return watched(model.named_modules(), self._enter, self._leave)

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.stack.append((name, module))

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        self.stack.pop()

    def __str__(self) -> str:
        """Name the innermost module with children, and the layer that it called."""
        inside = [name for name, module in self.stack if any(True for _ in module.children())]
        name = f'module {inside[-1]!r}' if inside and inside[-1] else 'the model'
        return name if not self.stack or self.stack[-1][0] in ('', *inside) else f'{name}, at {self.stack[-1][0]!r}'


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text[:160]}'


def breaking_units(model: nn.Module, units: Sequence[ChannelUnit], demo_input: TrialInput,
                   proven: Collection[str] = ()) -> Dict[str, str]:
    """Cut half of every unit of a copy at random and find the units whose cut is not exact.

    Args:
        model (nn.Module): The dense model; it is not changed.
        units (list[ChannelUnit]): Its units; they are not changed.
        demo_input (TrialInput): How to run it.
        proven (collection[str]): Units that an earlier trial has passed; where they are all, nothing runs.

    Returns:
        dict[str, str]: Unit name -> what its cut breaks; all others can be cut together.
    """
    unproven = [unit for unit in units if unit.name not in proven]
    if not unproven:
        return {}
    trial = TrialCut(model, units, demo_input)
    if len(unproven) < len(units):  # very likely those that the earlier trial has frozen
        alone = {unit.name: trial.failure([unit]) for unit in unproven}
        return {name: failure for name, failure in alone.items() if failure is not None}
    good: List[ChannelUnit] = []
    broken: Dict[str, str] = {}

    def search(candidates: Sequence[ChannelUnit]) -> None:
        failure = trial.failure([*good, *candidates])
        if failure is None:
            good.extend(candidates)
        elif len(candidates) == 1:
            broken[candidates[0].name] = failure
        else:
            half = len(candidates) // 2
            search(candidates[:half])
            search(candidates[half:])

    search(units)
    return broken
