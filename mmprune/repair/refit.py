"""Solve again, in closed form, what reads pruned channels: no gradient, no labels, a few hundred images.

Each layer of the cut model gets the weight and the offset with which its outputs are nearest to those of the dense twin
on the images, given what it reads now. The layers are solved in the order of execution, so that each makes up for what
was cut and solved before it. Least squares with a ridge towards the present weight; images that are held back say how
strong it is, and whether the layer is better than before: else it stays.
"""
import math
import sys
import time
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine.utils import ProgressBar
from torch import Tensor, nn

from ..arguments import UserError, number, one_of, typed, whole_number
from ..graph.demo_input import ExampleInputs
from ..random_state import seeded
from ..units.modes import in_eval
from ..units.mutator import ChannelMutator
from .batches import batches_of, few_rows, rows_of
from .layer import Layer, add_bias
from .moments import Moments, Sums, offset_of, solved, squared_error
from .norms import recalibrate, set_statistics, statistics
from .plan import RepairPlan, make_repair_plan
from .twin import Judge, Stage, Twin
from .windows import channels_first, columns, spatial

#: (layer, batch, call) -> sampled positions, and what the dense layer returns there.
Targets = Dict[Tuple[str, int, int], Tuple[Tensor, Tensor]]

HOWS = ('full', 'bias', 'norms')
#: Strengths of the ridge, as shares of the mean variance of what a layer reads, the strongest first; the held-back
#: images choose.
RIDGES = (math.inf, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
#: Bytes that may lie between two stages for both networks, and of sampled outputs.
STORED, TARGETS = 1.7e9, 5e8
#: Images by which norms are measured anew after a refit.
ENOUGH_FOR_NORMS = 200
#: A layer whose relative error is less has nothing to repair.
NOTHING = 1e-10


class LayerRepair(NamedTuple):
    """What became of a layer."""

    before: float  #: squared error on held-back images over the outputs' variance
    after: float  #: the same with the solution
    applied: bool  #: whether the solution is in place; False where it is worse, or nothing was to be repaired
    ridge: Optional[float] = None  #: strength of the ridge
    added_bias: bool = False  #: the layer has got a bias, which it did not have


class Repair(NamedTuple):
    """What a repair has done.

    Attributes:
        layers (dict[str, LayerRepair]): In the order of execution.
        left (dict[str, str]): Weight that reads channels that are gone -> why it was left as it is.
        norms (bool): Whether the norms' statistics were measured anew.
        before, after (float): Squared error of the model's outputs on held-back images over their variance; NaN without
            a dense twin.
        seconds (float): Time taken.
    """

    layers: Dict[str, LayerRepair]
    left: Dict[str, str]
    norms: bool
    before: float
    after: float
    seconds: float

    def notes(self) -> List[str]:
        """Return what a user should know, a line each."""
        solved_again = sum(layer.applied for layer in self.layers.values())
        worse = [name for name, layer in self.layers.items() if not layer.applied and layer.before > NOTHING]
        added = [name for name, layer in self.layers.items() if layer.added_bias]
        lines = [f'{solved_again} of {len(self.layers)} layers solved again in {self.seconds:.0f} s; error of the '
                 f'outputs on held-back images {self.before:.4f} before, {self.after:.4f} after'
                 f'{"; norms measured anew" if self.norms else ""}']
        lines += [f'{name}: left as it was, since its solution is worse on held-back images' for name in worse]
        lines += [f'{name}: has got a bias, a parameter that the architecture does not have' for name in added]
        return lines + [f'{name}: left as it was; {reason}' for name, reason in self.left.items()]


@typed
def repair(mutator: ChannelMutator, dense: Optional[nn.Module], images: Union[Tensor, Iterable[Any]],
           how: str = 'full', positions: int = 200, ridge: Optional[float] = None, may_add_bias: bool = True,
           seed: int = 0) -> Repair:
    """Repair a cut model in place.

    Memory: both networks, the images, one batch's forward of each, and about 3 GB: what lies between two stages of a
    model that is a chain of modules, and the sampled outputs of a stage. A model that is no chain is run from its
    inputs for each of its layers, which takes longer and no more memory.

    Args:
        mutator (ChannelMutator): Of the cut model.
        dense (nn.Module, optional): A copy of the model from before the cut, on its device; ``norms`` does without.
        images (Tensor[N, *] or iterable): All images, or batches of what the model is called with. Every fifth batch is
            held back to judge by.
        how (str): ``full``: weights and offsets. ``bias``: offsets only. ``norms``: no layer, but the running
            statistics of batch norms.
        positions (int): Positions sampled of each image in each layer, over all of its calls.
        ridge (float, optional): Strength of the ridge; by default the held-back images choose it. 0 is plain least
            squares.
        may_add_bias (bool): A layer that has no bias and feeds no batch norm alone gets a bias. Else it is solved
            without an offset.
        seed (int): Of the sampled positions. The process's own generators are left where they are.

    Raises:
        UserError: An argument has a wrong value; ``dense`` is not the model from before the cut; there are not two
            batches.
    """
    settings = _Settings(one_of('how', how, HOWS), whole_number('positions', positions), ridge, may_add_bias,
                         whole_number('seed', seed, 0))
    if ridge is not None:
        number('ridge', ridge, 0, 1e6)
    if dense is None and how != 'norms':
        raise UserError(f'how={how!r} compares with the dense model: give dense, a copy from before the cut, '
                        'copy.deepcopy(model)')
    batches, held = batches_of(images)
    with seeded([seed]), in_eval(mutator.model, *([] if dense is None else [dense])):
        return _repaired(mutator, dense, batches, held, settings)


def _repaired(mutator: ChannelMutator, dense: Optional[nn.Module], batches: Sequence[Any], held: Sequence[int],
              settings: '_Settings') -> Repair:
    began = time.monotonic()
    if dense is None:
        recalibrate(mutator.model, batches)
        return Repair({}, {}, True, math.nan, math.nan, time.monotonic() - began)
    judge = Judge(dense, [batches[number] for number in held])
    before = after = judge.error(mutator.model)
    layers: Dict[str, LayerRepair] = {}
    left: Dict[str, str] = {}
    norms = False
    if not all(unit.kept.all() for unit in mutator.all_units):
        if settings.how != 'norms':
            refit = _Refit(mutator, dense, batches, held, settings)
            layers, left = refit.run(), refit.plan.left
            after = judge.error(mutator.model)
        others = [batch for number, batch in enumerate(batches) if number not in held]
        norms, after = _recalibrated(mutator.model, others, judge, after, settings.how == 'norms')
    return Repair(layers, left, norms, before, after, time.monotonic() - began)


def _recalibrated(model: nn.Module, batches: Sequence[Any], judge: Judge, before: float,
                  forced: bool) -> Tuple[bool, float]:
    """Measure the norms anew, unless the outputs are worse then; return whether, and the error."""
    own = statistics(model)
    if not own:
        return False, before
    some = batches if forced else batches[::max(1, sum(map(rows_of, batches)) // ENOUGH_FOR_NORMS)]
    recalibrate(model, some)
    after = judge.error(model)
    if forced or after < before:
        return True, after
    set_statistics(model, own)
    return False, before


class _Settings(NamedTuple):
    how: str
    positions: int
    ridge: Optional[float]
    may_add_bias: bool
    seed: int


class _Refit:
    """The layers of a cut model, solved one after another."""

    def __init__(self, mutator: ChannelMutator, dense: nn.Module, batches: Sequence[Any], held: Sequence[int],
                 settings: _Settings) -> None:
        self.mutator, self.settings, self.held = mutator, settings, {*held}
        few = few_rows(batches[0])
        self.rows = sum(map(rows_of, batches))
        self.plan: RepairPlan = make_repair_plan(
            mutator, dense, ExampleInputs(few), settings.positions, settings.may_add_bias, self.rows,
            STORED * rows_of(few) / self.rows)
        self.cut, self.dense = (Twin(model, batches, self.plan.chain, number, self.plan.half)
                                for number, model in enumerate((mutator.model, dense)))
        self.batches = range(len(batches))

    def run(self) -> Dict[str, LayerRepair]:
        """Solve all layers and return what became of them."""
        done: Dict[str, LayerRepair] = {}
        bar = ProgressBar(sum(len(stage.layers) for stage in self.plan.stages), file=sys.stdout)
        for place, stage in enumerate(self.plan.stages):
            store = place + 1 < len(self.plan.stages)
            portions = self._portions(stage)
            for turn, portion in enumerate(portions, 1):
                targets = self._targets(stage, portion, store and turn == len(portions))
                for together in _together(portion):
                    done.update(self._solve(stage, together, targets))
                    bar.update(len(together))
            if store:
                for batch in self.batches:
                    self.cut.run(batch, stage, store=True)
        bar.file.write('\n')
        return done

    def _portions(self, stage: Stage) -> List[List[Layer]]:
        """Return the layers of a stage in portions whose targets fit into memory; one, maybe empty, at least."""
        found: List[List[Layer]] = [[]]
        size = 0.0
        for layer in stage.layers:
            own = 4.0 * self.rows * self.settings.positions * len(layer.rows)
            if found[-1] and size + own > TARGETS:
                found.append([])
                size = 0.0
            found[-1].append(layer)
            size += own
        return found

    def _targets(self, stage: Stage, layers: Sequence[Layer], store: bool) -> Targets:
        """Return sampled positions, and outputs ``Tensor[G, O, S]`` of the dense layers there."""
        found: Targets = {}
        batch = 0

        def take(layer: Layer, call: int, out: Tensor) -> None:
            out = spatial(channels_first(layer.module, out)).index_select(1, layer.rows)
            places = self._places(layer, batch, call, out.size(2)).to(out.device)
            found[layer.name, batch, call] = places, layer.grouped(out[:, :, places].transpose(0, 1).flatten(1))

        if layers or store:
            with self.dense.watching(layers, after=take, stop=not store) as calls:
                for batch in self.batches:
                    calls.start()
                    self.dense.run(batch, stage, store)
        return found

    def _places(self, layer: Layer, batch: int, call: int, count: int) -> Tensor:
        entropy = [self.settings.seed, batch, call, *layer.name.encode()]
        places = np.random.default_rng(entropy).permutation(count)[:max(1, round(layer.share * count))]
        return torch.from_numpy(np.sort(places))

    def _solve(self, stage: Stage, layers: Sequence[Layer],
               targets: Targets) -> Dict[str, LayerRepair]:
        """Solve layers none of which reads what another makes."""
        sums = {(layer.name, held): Sums() for layer in layers for held in (False, True)}
        batch = 0

        def add(layer: Layer, call: int, x: Tensor) -> None:
            places, y = targets.pop((layer.name, batch, call), (None, None))
            x = channels_first(layer.module, x)
            if y is not None and len(places) * len(x) == y.size(2) > 0:
                sums[layer.name, batch in self.held].add(columns(layer.module, x, places), y)

        with self.cut.watching(layers, before=add) as calls:
            for batch in self.batches:
                calls.start()
                self.cut.run(batch, stage)
        found = {}
        for layer in layers:
            fit, held = (sums.pop((layer.name, part)) for part in (False, True))
            if fit.count and held.count:
                found[layer.name] = self._apply(layer, fit.moments(), held.moments())
        return found

    def _apply(self, layer: Layer, fit: Moments, held: Moments) -> LayerRepair:
        """Choose the ridge by held-back samples; where the solution is better there, solve by all and write it."""
        added = False
        if not layer.has_offset:
            fit, held = fit.uncentred(), held.uncentred()
        weight, offset = layer.current()
        size = max(float(held.yy.sum()), 1e-30)
        before = squared_error(held, weight, offset) / size

        def solution(moments: Moments, ridge: float) -> Tuple[Tensor, Tensor]:
            found = solved(moments, weight, ridge)
            return found, offset_of(moments, found)

        ridges: Sequence[float] = RIDGES if self.settings.ridge is None else (self.settings.ridge,)
        if self.settings.how == 'bias':
            ridges = (math.inf,)
        errors: Dict[float, float] = {}
        for ridge in ridges:
            errors[ridge] = squared_error(held, *solution(fit, ridge)) / size
            if errors[ridge] > 1.1 * min(errors.values()):  # a weaker one is worse still
                break
        best = min(errors, key=lambda ridge: errors[ridge])
        applied = before > NOTHING and errors[best] < before
        if applied:
            added = layer.has_offset and not layer.norms and layer.module.bias is None
            if added:
                add_bias(self.mutator, layer)
            layer.write(*solution(fit.joined(held), best))
        return LayerRepair(before, errors[best], applied, best, added)


def _together(layers: Sequence[Layer]) -> List[List[Layer]]:
    """Return layers in the order of execution, those that read the same tensor together."""
    found: Dict[int, List[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.source, []).append(layer)
    return list(found.values())
