"""The trial cut: cut a copy of the model before anything is pruned, and compare it with the masked dense model.

A trace cannot see a size that is written into a forward (``x[:, :64]``), with which the dense model runs the same. So
the units of a copy in float64 are cut at random, and the result is compared with the masked dense model in eval and
train mode. Where a forward has constants of float32, both are in float32.
"""
import copy
from functools import partial
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..arguments import UserError
from ..graph.capture import ERRORS
from ..graph.trace import Axis
from .comparison import Comparison, DiffersError
from .copies import double_copy, float_copy, sharing_copy
from .equivalence import Masks, masked_dense, random_mask, random_masks, randomise, relative_difference
from .layer_outputs import Run, functions_of, run
from .running import Running
from .surgery import Surgery
from .unit import ChannelUnit


class Precision(NamedTuple):
    """The numbers that a trial computes with."""

    dtype: torch.dtype
    #: Relative difference above which a cut changes the function; rounding stays far below, about 1e-15 or 1e-6 times
    #: the square root of the number of layers
    tolerance: float
    noise: float  #: relative noise that stands for rounding


#: Modes to run a model in: ``training``.
Modes = Tuple[bool, ...]
DOUBLE, SINGLE = Precision(torch.float64, 1e-7, 1e-15), Precision(torch.float32, 1e-4, 1e-7)


class TrialInput(Protocol):
    """A demo input that offers cheaper inputs too."""

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its outputs."""

    def for_trial(self) -> Sequence['TrialInput']:
        """Return inputs to try, the cheapest first."""


class Failure(NamedTuple):
    """What is wrong with a cut model."""

    message: str
    module: Optional[str]  #: innermost module with children in which it was seen; None for the outputs of the model


class TrialCut:
    """Cuts of a model, compared with the masked dense model layer by layer; see :mod:`.breaking`.

    Args:
        model (nn.Module): The dense model; it is not changed.
        units (list[ChannelUnit]): Its units; they are not changed.
        demo_input (TrialInput): How to run it.

    Attributes:
        forwards (int): How many forwards of cut and of masked models have run.

    Raises:
        UserError: The dense model does not run on the demo input in eval mode.
    """

    def __init__(self, model: nn.Module, units: Sequence[ChannelUnit], demo_input: TrialInput) -> None:
        self.units, self.forwards = units, 0
        self.candidates = _candidates(model, demo_input)
        # keep about half of every unit, in both modes; most of some units and little of the others, and the reverse
        self.half = random_masks(units, ratio=0.5, seed=0, spread=0.25)
        others = (complement(self.half), *uneven_masks(units))
        self.cuts: List[Tuple[Masks, Modes]] = [(self.half, (False, True)), *((masks, (False,)) for masks in others)]
        self._take(DOUBLE, double_copy(model))
        if self.inputs[False] is None:
            error = self._error
            self._take(SINGLE, float_copy(model))
            if self.inputs[False] is None:
                raise UserError(f'the trial cut cannot run {type(model).__name__} on the demo input, not in float64 '
                                f'({_first_line(error)}) nor in float32 ({_first_line(self._error)}); trial_cut=False '
                                'prunes without it')
            print_log(f'the trial cut runs {type(model).__name__} in float32, since it has constants of float32 '
                      f'({_first_line(error)})', logger='current')
        if self.inputs[True] is None:
            print_log(f'{type(model).__name__} does not run on the demo input in train mode '
                      f'({_first_line(self._error)}): the trial cut compares eval mode only', logger='current')

    def _take(self, precision: Precision, dense: nn.Module) -> None:
        """Take a copy of the dense model."""
        self.precision, self.dense = precision, dense
        randomise(dense, seed=0)
        tensors = dict([*dense.named_parameters(), *dense.named_buffers()])
        axes = {member.axis.tensor: member.axis for unit in self.units for member in unit.channels.producers}
        #: id of a weight that a unit touches -> axis of its rows
        self.rows: Dict[int, Axis] = {id(tensors[name]): axis for name, axis in axes.items()}
        #: layer -> axis of the rows of what its weight is computed from
        self.computed = {axis.layer: axis for name, axis in axes.items() if not name.endswith('weight')}
        #: training -> the cheapest input on which the dense model runs, or None
        self.inputs: Dict[bool, Optional[TrialInput]] = {}
        #: training -> what the model computes there with half of every unit masked
        self.known: Dict[bool, Run] = {}
        with masked_dense(dense, self.units, self.half) as masked:
            for training in (False, True):
                self.inputs[training] = self._runs_on(masked, training)

    def _runs_on(self, masked: nn.Module, training: bool) -> Optional[TrialInput]:
        """Return the cheapest input on which the dense model runs, or None; then ``_error`` says why."""
        for candidate in self.candidates:
            try:
                self.forwards += 1
                self.known[training] = run(sharing_copy(masked), candidate, training)
                return candidate
            except UserError:
                raise
            except ERRORS as error:
                self._error = error
        return None

    def failure(self, units: Sequence[ChannelUnit]) -> Optional[Failure]:
        """Cut the units in several ways; return what is wrong with the first cut model that fails, or None."""
        for place, (masks, modes) in enumerate(self.cuts):
            known = self.known if masks is self.half and len(units) == len(self.units) else {}
            found = self._failure({unit.name: masks[unit.name] for unit in units}, modes, known)
            if found is not None:
                self.cuts.insert(0, self.cuts.pop(place))  # what caught one catches the next
                return found
        return None

    def _failure(self, masks: Masks, modes: Modes, known: Mapping[bool, Run]) -> Optional[Failure]:
        """Run the cut model, then, where nothing breaks, the masked one; ``known`` are runs of the masked one."""
        inputs = [(training, forward) for training, forward in self.inputs.items() if training in modes and forward]
        cut, units = sharing_copy(self.dense), [copy.copy(unit) for unit in self.units]
        Surgery(cut, units).cut(masks)
        runs: List[Run] = []
        for training, forward in inputs:
            found = self._run_cut(cut if training is inputs[-1][0] else sharing_copy(cut), forward, training)
            if isinstance(found, Failure):
                return found
            runs.append(found)
        del cut  # the masked one takes its place in memory
        surgery = Surgery(self.dense, units)
        for (training, forward), after in zip(inputs, runs):
            comparison = Comparison(after, partial(self.kept_rows, surgery), self.precision.tolerance)
            size, layer = comparison.of(known[training]) if training in known else self._compare(
                comparison, masks, forward, training)
            if size and size > 100 * self._noise(masks, comparison.before, forward, training, layer):
                place = 'seen in the outputs only' if layer is None else f'first seen in layer {layer!r}'
                return Failure(f'cutting it changes what the model computes by {size:.1e} ({place}): the forward '
                               'before it depends on the number or the order of channels',
                               None if layer is None else layer.rpartition('.')[0])
        return None

    def _run_cut(self, cut: nn.Module, forward: TrialInput, training: bool) -> Union[Run, Failure]:
        running = Running()
        self.forwards += 1
        try:
            with running.watch(cut):
                return run(cut, forward, training)
        except ERRORS as error:
            return Failure(f'cutting it breaks the forward of {running} ({_first_line(error)}): where a size is '
                           'written down there, take it from the shape of the tensor', running.module)

    def _compare(self, comparison: Comparison, masks: Masks, forward: TrialInput,
                 training: bool) -> Tuple[float, Optional[str]]:
        """Run the masked dense model as far as it agrees; return by how much it differs, and in which layer."""
        self.forwards += 1
        with masked_dense(self.dense, self.units, masks) as dense:
            try:
                before = run(dense, forward, training, look=comparison.look)
            except DiffersError as found:
                return found.args  # type: ignore[return-value]
        return comparison.at_end(before.outputs)

    def kept_rows(self, surgery: Surgery, layer: str, out: Tensor) -> Tensor:
        """Return the channels, along the last axis, of a dense layer's output that the cut model has kept."""
        module = self.dense.get_submodule(layer)
        axis = self.computed.get(layer) or self.rows.get(id(module.weight))
        if axis is None:
            return out
        rows = surgery.kept_outputs(axis, out.size(-1))
        return out.index_select(out.dim() - 1, torch.from_numpy(rows))

    def _noise(self, masks: Masks, before: Run, forward: TrialInput, training: bool, layer: Optional[str]) -> float:
        """Return how far noise like rounding in the weights moves a layer of the masked model, or its outputs."""
        generator = torch.Generator().manual_seed(0)
        self.forwards += 1
        with masked_dense(self.dense, self.units, masks) as other:
            for parameter in other.parameters():
                if parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                    parameter.data = parameter.data * (1 + self.precision.noise * noise)
            moved = run(other, forward, training, most=None if layer is None else len(before.layers))
        if layer is None:
            return relative_difference(before.outputs, moved.outputs)
        pairs = [(a.sums, b.sums) for a, b in zip(before.layers, moved.layers) if a.layer == layer]
        return max(relative_difference([a], [b]) for a, b in pairs)


def _candidates(model: nn.Module, demo_input: TrialInput) -> List[TrialInput]:
    """Return inputs to try, the cheapest first; smaller ones only where the model does the same with them."""
    if not hasattr(demo_input, 'for_trial'):
        return [demo_input]
    found = list(demo_input.for_trial())
    smaller = [one for one in found if getattr(one, 'stands_for', None) is not None]
    if smaller and not _does_the_same(model, smaller[0], smaller[0].stands_for):  # type: ignore[attr-defined]
        found = [one for one in found if one not in smaller]
    return found


def _does_the_same(model: nn.Module, smaller: TrialInput, given: TrialInput) -> bool:
    """Tell whether a model calls the same functions on both inputs."""
    try:
        return functions_of(sharing_copy(model), smaller) == functions_of(sharing_copy(model), given)
    except ERRORS:
        return False


def complement(masks: Masks) -> Dict[str, np.ndarray]:
    """Return masks that keep what others drop, one set at least, so that every set has gone once."""
    found = {name: ~mask for name, mask in masks.items()}
    for mask in found.values():
        mask[0] |= not mask.any()
    return found


def uneven_masks(units: Sequence[ChannelUnit]) -> List[Dict[str, np.ndarray]]:
    """Return masks that keep an eighth of a random half of the units and drop an eighth of the others; the reverse.

    An odd number goes or stays, so that every unit is odd once: some forwards halve a width, or pad it.
    """
    random = np.random.RandomState(1)
    heavy = random.rand(len(units)) < 0.5
    found: List[Dict[str, np.ndarray]] = []
    for flip in (False, True):
        masks: Dict[str, np.ndarray] = {}
        for unit, most in zip(units, heavy ^ flip):
            eighth = len(unit.kept) // 8 | 1
            masks[unit.name] = random_mask(random, len(unit.kept), len(unit.kept) - eighth if most else eighth)
        found.append(masks)
    return found


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text[:160]}'
