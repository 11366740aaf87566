"""The trial cut: cut a copy of the model once before anything is pruned, and find the units that break it.

A trace cannot see a size that is written into a forward (``x[:, :64]``, ``split(x, 26)``): the dense model runs the
same with it. So half of every unit is cut at random, in a float64 copy, and compared with the masked dense model, in
eval and train mode. Where that fails, bisecting finds the units at fault.
"""
import copy
from contextlib import contextmanager
from typing import Any, Callable, Collection, Dict, Iterator, List, Optional, Protocol, Sequence, Tuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .equivalence import (
    Masks,
    cut_copy,
    double_copy,
    mask_dense,
    outputs,
    random_masks,
    randomise,
    relative_difference,
    sharing_copy,
)
from .ops import TAPPABLE
from .surgery import Surgery
from .tracing import ERRORS
from .unit import ChannelUnit

#: Relative difference above which a cut has changed the function; rounding in float64 stays far below.
TOLERANCE = 1e-7


class TrialInput(Protocol):
    """A demo input that knows cheaper ones."""

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its outputs."""

    def for_trial(self) -> Sequence['TrialInput']:
        """Return inputs to try, the cheapest first."""


class TrialCut:
    """Cuts of one model, compared with the masked dense model.

    Args:
        model (nn.Module): The dense model; it is not changed.
        units (list[ChannelUnit]): Its units; they are not changed.
        demo_input (TrialInput): How to run it.
    """

    def __init__(self, model: nn.Module, units: Sequence[ChannelUnit], demo_input: TrialInput) -> None:
        self.dense = double_copy(model)
        randomise(self.dense, seed=0)
        self.units = units
        self.masks = random_masks(units, ratio=0.5, seed=0, spread=0.25)
        self.candidates = demo_input.for_trial() if hasattr(demo_input, 'for_trial') else [demo_input]
        #: training -> the input that the dense model takes, None if there is none
        self.inputs: Dict[bool, Optional[TrialInput]] = {}

    def failure(self, units: Sequence[ChannelUnit]) -> Optional[str]:
        """Cut the units and return what is wrong with the cut model, or None."""
        masks = {unit.name: self.masks[unit.name] for unit in units}
        cut = cut_copy(self.dense, self.units, masks)
        dense: Optional[nn.Module] = None
        for training in (False, True):
            before = None
            if training not in self.inputs:
                dense = dense or mask_dense(self.dense, self.units, masks)
                before = self._choose_input(dense, training)
            forward = self.inputs[training]
            if forward is None:
                continue
            running = _Running()
            try:
                with running.watch(cut):
                    after = outputs(cut, forward, training)
            except ERRORS as error:
                return (f'cutting it breaks the forward of {running} ({_first_line(error)}): a size is fixed there; '
                        'take it from the shape of the tensor')
            dense = dense or mask_dense(self.dense, self.units, masks)
            change = relative_difference(before or outputs(dense, forward, training), after)
            if not change < TOLERANCE:
                return self._explain(masks, change, forward, training)
        return None

    def _choose_input(self, dense: nn.Module, training: bool) -> Optional[List[Tensor]]:
        """Find the cheapest input on which the dense model runs; return its outputs, or None where there is none."""
        error: Optional[Exception] = None
        for candidate in self.candidates:
            try:
                found = outputs(dense, candidate, training)
            except ERRORS as raised:
                error = raised
            else:
                self.inputs[training] = candidate
                return found
        self.inputs[training] = None
        print_log(f'the dense model does not run on the demo input in {"train" if training else "eval"} mode '
                  f'({error}): the trial cut leaves that mode out', logger='current', level=30)
        return None

    def _explain(self, masks: Masks, change: float, forward: TrialInput, training: bool) -> str:
        """Name the first layer whose remaining outputs differ."""
        layer = first_different_layer(self.dense, self.units, masks, forward, training)
        place = f'first seen in layer {layer!r}' if layer is not None else 'seen in the outputs only'
        return (f'cutting it changes what the model computes by {change:.1e} ({place}): the forward before it depends '
                'on the number or the order of channels')


def first_different_layer(dense: nn.Module, units: Sequence[ChannelUnit], masks: Masks, forward: TrialInput,
                          training: bool) -> Optional[str]:
    """Return the first conv or linear layer whose outputs differ between masked dense and cut model, or None."""
    cut_units = [copy.copy(unit) for unit in units]
    cut = sharing_copy(dense)
    surgery = Surgery(cut, cut_units)
    surgery.cut(masks)
    axes = {member.axis.layer: member.axis for unit in units for member in unit.channels.producers}
    runs = [_layer_outputs(model, forward, training) for model in (mask_dense(dense, units, masks), cut)]
    for (layer, before), (_, after) in zip(*runs):
        axis = axes.get(layer)  # None where its rows stay
        dim = -1 if isinstance(dense.get_submodule(layer), nn.Linear) else 1
        if axis is not None and before.size(dim) == len(axis.ids):
            kept: np.ndarray = surgery.layout(axis.tensor)[axis.dim].astype(int)
            before = before.index_select(dim, torch.from_numpy(kept))
        if not relative_difference([before], [after]) < TOLERANCE:
            return layer
    return None


def _layer_outputs(model: nn.Module, forward: TrialInput, training: bool) -> List[Tuple[str, Tensor]]:
    """Run a model and return (layer, output) of every call of a conv or linear module, in order."""
    found: List[Tuple[str, Tensor]] = []

    def keep(layer: str) -> Callable[..., None]:
        return lambda module, args, out: found.append((layer, out))

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()
               if isinstance(module, TAPPABLE)]
    outputs(model, forward, training)
    for handle in handles:
        handle.remove()
    return found


class _Running:
    """The modules that are running; after an error, those that were."""

    def __init__(self) -> None:
        self.stack: List[Tuple[str, nn.Module]] = []

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Watch a model's forward."""
        self.stack = []
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(
                lambda module, args, name=name: self.stack.append((name, module))))
            handles.append(module.register_forward_hook(lambda *_: self.stack.pop() and None))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

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
