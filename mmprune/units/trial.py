"""The trial cut: cut a copy of the model before anything is pruned, and compare it with the masked dense model.

A trace cannot see a size that is written into a forward (``x[:, :64]``), with which the dense model runs the same. So
the units of a copy in float64 are cut at random, and the result is compared with the masked dense model in eval and
train mode. Where a forward has constants of float32, both are in float32.
"""
import copy
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..arguments import UserError
from ..graph.capture import ERRORS
from ..graph.idle import CONV_OR_LINEAR
from ..graph.trace import Axis
from ..graph.watching import watched
from .copies import double_copy, float_copy, sharing_copy
from .equivalence import Masks, mask_dense, outputs, random_mask, random_masks, randomise, relative_difference
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


DOUBLE, SINGLE = Precision(torch.float64, 1e-7, 1e-15), Precision(torch.float32, 1e-4, 1e-7)


class TrialInput(Protocol):
    """A demo input that offers cheaper inputs too."""

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its outputs."""

    def for_trial(self) -> Sequence['TrialInput']:
        """Return inputs to try, the cheapest first."""


class LayerOutput(NamedTuple):
    """What a conv or linear module returned, summed with fixed weights over its positions, since it is large."""

    layer: str  #: name of the module
    shape: Tuple[int, ...]  #: its shape but for the channels
    sums: Tensor  #: ``Tensor[N, C]`` of a convolution, ``Tensor[C]`` of a linear layer


class Run(NamedTuple):
    """The result of a forward pass."""

    outputs: List[Tensor]  #: outputs of the model
    layers: List[LayerOutput]  #: every call of a conv or linear module, in order


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
        self.candidates = demo_input.for_trial() if hasattr(demo_input, 'for_trial') else [demo_input]
        self._take(DOUBLE, double_copy(model))
        #: training -> the cheapest input on which the dense model runs, or None
        self.inputs = {training: self._runs_on(training) for training in (False, True)}
        if self.inputs[False] is None:
            error = self._error
            self._take(SINGLE, float_copy(model))
            self.inputs = {training: self._runs_on(training) for training in (False, True)}
            if self.inputs[False] is None:
                raise UserError(f'the trial cut cannot run {type(model).__name__} on the demo input, not in float64 '
                                f'({_first_line(error)}) nor in float32 ({_first_line(self._error)}); trial_cut=False '
                                'prunes without it')
            print_log(f'the trial cut runs {type(model).__name__} in float32, since it has constants of float32 '
                      f'({_first_line(error)})', logger='current')
        if self.inputs[True] is None:
            print_log(f'{type(model).__name__} does not run on the demo input in train mode '
                      f'({_first_line(self._error)}): the trial cut compares eval mode only', logger='current')
        # keep about half of every unit, in both modes; most of some units and little of the others, and the reverse
        self.cuts = [(random_masks(units, ratio=0.5, seed=0, spread=0.25), training) for training in (False, True)]
        self.cuts += [(masks, False) for masks in (complement(self.cuts[0][0]), *uneven_masks(units))]

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

    def _runs_on(self, training: bool) -> Optional[TrialInput]:
        """Return the cheapest input on which the dense model runs, or None; then ``_error`` says why."""
        for candidate in self.candidates:
            try:
                outputs(sharing_copy(self.dense), candidate, training)
                return candidate
            except UserError:
                raise
            except ERRORS as error:
                self._error = error
        return None

    def failure(self, units: Sequence[ChannelUnit]) -> Optional[Failure]:
        """Cut the units in several ways; return what is wrong with the first cut model that fails, or None."""
        for place, (masks, training) in enumerate(self.cuts):
            found = self._failure({unit.name: masks[unit.name] for unit in units}, training)
            if found is not None:
                self.cuts.insert(0, self.cuts.pop(place))  # what caught one catches the next
                return found
        return None

    def _failure(self, masks: Masks, training: bool) -> Optional[Failure]:
        forward = self.inputs[training]
        if forward is None:
            return None
        cut = sharing_copy(self.dense)
        surgery = Surgery(cut, [copy.copy(unit) for unit in self.units])
        surgery.cut(masks)
        dense = mask_dense(self.dense, self.units, masks)
        before = run(dense, forward, training)
        running, comparison = Running(), _Comparison(self, before, surgery)
        self.forwards += 2
        try:
            with running.watch(cut), watched(_layers(cut), after=comparison.compare):
                after = outputs(cut, forward, training)
        except _Differs as found:
            size, layer = found.args
        except ERRORS as error:
            return Failure(f'cutting it breaks the forward of {running} ({_first_line(error)}): where a size is '
                           'written down there, take it from the shape of the tensor', running.module)
        else:
            size, layer = comparison.at_end(after), None
        if size and size > 100 * self._noise(dense, before, forward, training, layer):
            place = 'seen in the outputs only' if layer is None else f'first seen in layer {layer!r}'
            return Failure(f'cutting it changes what the model computes by {size:.1e} ({place}): the forward before '
                           'it depends on the number or the order of channels',
                           None if layer is None else layer.rpartition('.')[0])
        return None

    def kept_rows(self, layer: str, out: Tensor, surgery: Surgery) -> Tensor:
        """Return the channels, along the last axis, of a dense layer's output that the cut model has kept."""
        module = self.dense.get_submodule(layer)
        axis = self.computed.get(layer) or self.rows.get(id(module.weight))
        if axis is None:
            return out
        rows = surgery.kept_outputs(axis, out.size(-1))
        return out.index_select(out.dim() - 1, torch.from_numpy(rows))

    def _noise(self, dense: nn.Module, before: Run, forward: TrialInput, training: bool,
               layer: Optional[str]) -> float:
        """Return how far noise like rounding in the weights moves a layer of the dense model, or its outputs."""
        other = sharing_copy(dense)
        generator = torch.Generator().manual_seed(0)
        for parameter in other.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.data = parameter.data * (1 + self.precision.noise * noise)
        self.forwards += 1
        moved = run(other, forward, training)
        if layer is None:
            return relative_difference(before.outputs, moved.outputs)
        pairs = [(a.sums, b.sums) for a, b in zip(before.layers, moved.layers) if a.layer == layer]
        return max(relative_difference([a], [b]) for a, b in pairs)


class _Differs(Exception):
    """A layer of the cut model computes something else; how far, and its name."""


class _Comparison:
    """Compares the layers of a cut model with those of the masked dense one while it runs."""

    def __init__(self, trial: TrialCut, before: Run, surgery: Surgery) -> None:
        self.trial, self.before, self.surgery, self.calls = trial, before, surgery, 0

    def compare(self, layer: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        """Compare the output of a layer.

        Raises:
            _Differs: It is another one.
        """
        if not isinstance(out, Tensor):
            return
        dense = self.before.layers[self.calls] if self.calls < len(self.before.layers) else None
        self.calls += 1
        if dense is None or dense.layer != layer:  # the cut model runs other layers
            raise _Differs(float('inf'), None)
        after = summed(layer, module, out)
        if after.shape != dense.shape:  # it mixes the positions of channels that were cut; the outputs tell
            return
        change = relative_difference([self.trial.kept_rows(layer, dense.sums, self.surgery)], [after.sums])
        if not change < self.trial.precision.tolerance:
            raise _Differs(change, layer)

    def at_end(self, after: List[Tensor]) -> float:
        """Return by how much the outputs differ; 0 for less than the tolerance."""
        change = relative_difference(self.before.outputs, after)
        return 0.0 if change < self.trial.precision.tolerance else change


def complement(masks: Masks) -> Dict[str, np.ndarray]:
    """Return masks that keep what others drop, one set at least, so that every set has gone once."""
    found = {name: ~mask for name, mask in masks.items()}
    for mask in found.values():
        mask[0] |= not mask.any()
    return found


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


def _layers(model: nn.Module) -> List[Tuple[str, nn.Module]]:
    return [item for item in model.named_modules() if isinstance(item[1], CONV_OR_LINEAR)]


def summed(layer: str, module: nn.Module, out: Tensor) -> LayerOutput:
    """Sum the output of a conv or linear module over its positions, with weights from 0.5 to 2.5."""
    axis = out.dim() - 1 if isinstance(module, nn.Linear) else out.dim() - module.weight.dim() + 1
    shape = (*out.shape[:axis], *out.shape[axis + 1:])
    values = out.reshape(-1, out.size(axis)).t() if isinstance(module, nn.Linear) else out.flatten(axis + 1)
    weights = 1.5 + torch.cos(1.7 * torch.arange(values.size(-1), dtype=out.real.dtype))
    return LayerOutput(layer, shape, values @ weights.to(out.dtype))


def run(model: nn.Module, forward: TrialInput, training: bool) -> Run:
    """Run a model and record the outputs of the model and of its conv and linear modules."""
    layers: List[LayerOutput] = []

    def keep(layer: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if isinstance(out, Tensor):
            layers.append(summed(layer, module, out))  # now, since an activation may follow in place

    with watched(_layers(model), after=keep):
        return Run(outputs(model, forward, training), layers)


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition('\n')[0]
    return f'{type(error).__name__}: {text[:160]}'
