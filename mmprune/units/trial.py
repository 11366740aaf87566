"""The trial cut: cut a copy of the model before anything is pruned, and find the units that break it.

A trace cannot see a size that is written into a forward (``x[:, :64]``, ``split(x, 26)``), with which the dense model
runs the same. So the units of a float64 copy are cut at random, the result is compared with the masked dense model in
eval and train mode, and bisecting finds the units that fail.
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
from .copies import double_copy, sharing_copy
from .equivalence import (
    Masks,
    mask_dense,
    outputs,
    random_mask,
    random_masks,
    randomise,
    relative_difference,
)
from .surgery import Surgery
from .unit import ChannelUnit

#: Relative difference above which a cut changes the function; rounding in float64 stays far below.
TOLERANCE = 1e-7


class TrialInput(Protocol):
    """A demo input that offers cheaper inputs too."""

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its outputs."""

    def for_trial(self) -> Sequence['TrialInput']:
        """Return inputs to try, the cheapest first."""


class Run(NamedTuple):
    """The result of a forward pass."""

    outputs: List[Tensor]  #: outputs of the model
    layers: List[Tuple[str, Tensor]]  #: name and output of every call of a conv or linear module, in order


class Difference(NamedTuple):
    """The first place where two runs differ."""

    size: float  #: relative difference; 0 if none exceeds the tolerance
    layer: Optional[str]  #: name of the layer; None for the outputs of the model


class TrialCut:
    """Cuts of a model, compared with the masked dense model layer by layer; see :func:`breaking_units`."""

    def __init__(self, model: nn.Module, units: Sequence[ChannelUnit], demo_input: TrialInput) -> None:
        self.dense = double_copy(model)
        randomise(self.dense, seed=0)
        self.units = units
        # keep about half of every unit, in both modes; most of some units and little of the others, and the reverse
        self.cuts = [(random_masks(units, ratio=0.5, seed=0, spread=0.25), (False, True)),
                     *((masks, (False,)) for masks in uneven_masks(units))]
        tensors = dict([*self.dense.named_parameters(), *self.dense.named_buffers()])
        axes = {member.axis.tensor: member.axis for unit in units for member in unit.channels.producers}
        #: id of a weight that a unit touches -> axis of its rows
        self.rows: Dict[int, Axis] = {id(tensors[name]): axis for name, axis in axes.items()}
        self.candidates = demo_input.for_trial() if hasattr(demo_input, 'for_trial') else [demo_input]
        #: training -> the cheapest input on which the dense model runs, or None
        self.inputs: Dict[bool, Optional[TrialInput]] = {}

    def failure(self, units: Sequence[ChannelUnit]) -> Optional[str]:
        """Cut the units in several ways; return what is wrong with the first cut model that fails, or None."""
        failures = (self._failure({unit.name: masks[unit.name] for unit in units}, modes) for masks, modes in self.cuts)
        return next((failure for failure in failures if failure is not None), None)

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
        """Find the cheapest input on which the dense model runs; return that run, or None."""
        error: Optional[Exception] = None
        for candidate in self.candidates:
            try:
                found = run(dense, candidate, training)
                self.inputs[training] = candidate
                return found
            except ERRORS as raised:
                error = raised
        self.inputs[training] = None
        print_log(f'the dense model does not run on the demo input in {"train" if training else "eval"} mode '
                  f'({error}): the trial cut leaves that mode out', logger='current', level=30)
        return None

    def first_difference(self, before: Run, after: Run, surgery: Surgery) -> Difference:
        """Compare two runs, layers first.

        Args:
            before (Run): Run of the masked dense model.
            after (Run): Run of the cut model.
            surgery (Surgery): Surgery of the cut model, which knows the rows that its layers have kept.
        """
        if [layer for layer, _ in before.layers] != [layer for layer, _ in after.layers]:
            return Difference(float('inf'), None)  # the cut model runs other layers
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
        times = out.size(dim) // len(axis.ids)  # a grouped transposed weight has a group's rows
        if axis.role == 'depthwise':
            kept = (kept[:, None] * times + np.arange(times)).reshape(-1)
        else:
            kept = (np.arange(times)[:, None] * len(axis.ids) + kept).reshape(-1)
        return out.index_select(dim, torch.from_numpy(kept))

    def _noise(self, dense: nn.Module, before: Run, forward: TrialInput, training: bool, layer: Optional[str]) -> float:
        """Return how far relative noise of 1e-15 in the weights moves a layer of the dense model, or its outputs."""
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
    """Return masks that keep an eighth of a random half of the units and drop an eighth of the others; the reverse."""
    random = np.random.RandomState(1)
    heavy = random.rand(len(units)) < 0.5
    found: List[Dict[str, np.ndarray]] = []
    for flip in (False, True):
        masks: Dict[str, np.ndarray] = {}
        for unit, most in zip(units, heavy ^ flip):
            eighth = max(1, len(unit.kept) // 8)
            masks[unit.name] = random_mask(random, len(unit.kept), len(unit.kept) - eighth if most else eighth)
        found.append(masks)
    return found


def run(model: nn.Module, forward: TrialInput, training: bool) -> Run:
    """Run a model and record the outputs of the model and of its conv and linear modules."""
    layers: List[Tuple[str, Tensor]] = []

    def keep(layer: str, module: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        layers.append((layer, out))

    with watched([item for item in model.named_modules() if isinstance(item[1], CONV_OR_LINEAR)], after=keep):
        return Run(outputs(model, forward, training), layers)


class _Running:
    """The modules that are running, or were when an error was raised."""

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
        """Return the innermost module with children, and the layer that it called."""
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
        model (nn.Module): The dense model; neither it nor its units are changed.
        units (list[ChannelUnit]): Its units.
        demo_input (TrialInput): How to run it.
        proven (collection[str]): Names of units that are not tested, since an earlier trial has passed them.

    Returns:
        dict[str, str]: Unit name -> what its cut breaks; all other units can be cut together.
    """
    unproven = [unit for unit in units if unit.name not in proven]
    if not unproven:
        return {}
    trial = TrialCut(model, units, demo_input)
    if len(unproven) < len(units):  # probably frozen by the earlier trial
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
