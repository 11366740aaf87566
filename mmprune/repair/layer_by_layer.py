"""The layers of a cut model, solved one after another: each by what it reads then, and what the dense one returns."""
import math
import sys
from typing import Any, Collection, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.utils import ProgressBar
from torch import Tensor, nn

from ..graph.demo_input import ExampleInputs
from ..units.mutator import ChannelMutator
from .batches import few_rows, rows_of
from .clipping import Samples
from .layer import Layer, add_bias
from .moments import LeastSquares, Moments, Sums, squared_error
from .plan import RepairPlan, make_repair_plan
from .result import NOTHING, LayerRepair
from .sampling import share_of_places, spread
from .twin import Stage, Twin
from .windows import channels_first, columns, spatial

#: (layer, batch, call) -> sampled positions, and what the dense layer returns there.
Targets = Dict[Tuple[str, int, int], Tuple[Tensor, Tensor]]
#: Strengths of the ridge, as shares of the variance of each input, the strongest first; the held-back images choose.
RIDGES = (math.inf, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
#: Bytes that may lie between two stages for both networks, and of sampled outputs.
STORED, TARGETS = 1e9, 5e8


class Settings(NamedTuple):
    """What a user has asked for; see :func:`~mmprune.repair.refit.repair`."""

    how: str
    positions: int
    ridge: Optional[float]
    may_add_bias: bool
    seed: int


class LayerByLayer:
    """The layers of a cut model, solved one after another."""

    def __init__(self, mutator: ChannelMutator, dense: nn.Module, batches: Sequence[Any], held: Collection[int],
                 settings: Settings) -> None:
        self.mutator, self.settings, self.held = mutator, settings, {*held}
        few = few_rows(batches[0])
        self.rows = sum(map(rows_of, batches))
        self.plan: RepairPlan = make_repair_plan(
            mutator, dense, ExampleInputs(few), settings.positions, settings.may_add_bias, self.rows,
            STORED * rows_of(few) / self.rows)
        self.cut, self.dense = (Twin(model, batches, self.plan.chain, number, self.plan.half)
                                for number, model in enumerate((mutator.model, dense)))
        self.batches = range(len(batches))
        fit = [number for number in self.batches if number not in self.held]
        self._sampled: Dict[str, FrozenSet[int]] = {}  # which batches each layer is solved by
        for layer in (layer for stage in self.plan.stages for layer in stage.layers):
            share = layer.sampling.images / self.rows
            self._sampled[layer.name] = frozenset(spread(fit, share) + spread(sorted(self.held), share))

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
            own = 4.0 * layer.sampling.samples * len(layer.rows)
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
            if batch not in self._sampled[layer.name]:
                return
            count = spatial(channels_first(layer.module, out)).size(2)
            places = self._places(layer, batch, call, count).to(out.device)
            if not len(places) or not out.numel():  # one of several calls; a batch without a region
                return
            wanted = layer.sampled(out, places, layer.rows)
            if layer.summand is not None:
                wanted = wanted + layer.before_norm(layer.sampled(calls.summands[layer.name], places, layer.rows))
            found[layer.name, batch, call] = places, layer.grouped(wanted)

        if layers or store:
            with self.dense.watching(layers, after=take, stop=not store) as calls:
                for batch in self.batches if store else self._batches_of(layers):
                    calls.start()
                    self.dense.run(batch, stage, store)
        return found

    def _batches_of(self, layers: Sequence[Layer]) -> List[int]:
        """Return the batches by which some layers are solved."""
        return sorted(frozenset().union(*(self._sampled[layer.name] for layer in layers)))

    def _places(self, layer: Layer, batch: int, call: int, count: int) -> Tensor:
        return share_of_places(layer.sampling.share, count, layer.calls > 1, self.settings.seed, batch, call,
                               layer.name)

    def _solve(self, stage: Stage, layers: Sequence[Layer],
               targets: Targets) -> Dict[str, LayerRepair]:
        """Solve layers none of which reads what another makes."""
        sums = {(layer.name, held): Sums() for layer in layers for held in (False, True)}
        samples: Dict[str, Samples] = {}
        batch = 0

        def add(layer: Layer, call: int, x: Tensor) -> None:
            places, y = targets.pop((layer.name, batch, call), (None, None))
            x = channels_first(layer.module, x)
            if y is not None and len(places) * len(x) == y.size(2) > 0:
                added = None
                if layer.summand is not None:
                    added = layer.grouped(layer.before_norm(layer.sampled(calls.summands[layer.name], places)))
                    y = y - added
                x = columns(layer.module, x, places)
                sums[layer.name, batch in self.held].add(x, y)
                if layer.clip is not None:
                    kept = samples.setdefault(layer.name, Samples(*layer.flat(), layer.has_offset,
                                                                  layer.sampling.samples))
                    kept.add(batch in self.held, x, y, added)

        with self.cut.watching(layers, before=add) as calls:
            for batch in self._batches_of(layers):
                calls.start()
                self.cut.run(batch, stage)
        found = {}
        for layer in layers:
            fit, held = (sums.pop((layer.name, part)) for part in (False, True))
            if fit.count and held.count:
                found[layer.name] = self._apply(layer, fit.moments(), held.moments(), samples.pop(layer.name, None))
        return found

    def _apply(self, layer: Layer, fit: Moments, held: Moments, samples: Optional[Samples]) -> LayerRepair:
        """Where a solution is better than the present weight on held-back samples, solve by all and write it."""
        added = False
        if not layer.has_offset:
            fit, held = fit.uncentred(), held.uncentred()
        weight, offset = layer.current()
        before = squared_error(held, weight, offset) / max(float(held.yy.sum()), 1e-30)
        linear = LeastSquares(fit, weight)
        ridge, after = self._ridge(linear, held)
        clipped, near = False, None
        if samples is not None:
            before, after = samples.error(weight, offset), samples.error(*linear.solved(ridge))
            near = samples.solved(linear, (False, ), ridge)
            error = samples.error(*near)
            clipped, after = error < after, min(after, error)
        applied = before > NOTHING and after < before
        if applied:
            added = layer.has_offset and not layer.norms and layer.module.bias is None
            if added:
                add_bias(self.mutator, layer)
            linear = LeastSquares(fit.joined(held), weight)
            layer.write(*(samples.solved(linear, (False, True), ridge, near) if clipped and samples is not None
                          else linear.solved(ridge)))
        return LayerRepair(before, after, applied, ridge, added, fit.samples, fit.xx.size(1))

    def _ridge(self, linear: LeastSquares, held: Moments) -> Tuple[float, float]:
        """Return the strength of the ridge with the least error on held-back samples, and the relative error."""
        ridges: Sequence[float] = RIDGES if self.settings.ridge is None else (self.settings.ridge,)
        if self.settings.how == 'bias':
            ridges = (math.inf,)
        errors: Dict[float, float] = {}
        for ridge in ridges:
            errors[ridge] = squared_error(held, *linear.solved(ridge)) / max(float(held.yy.sum()), 1e-30)
            if errors[ridge] > 1.1 * min(errors.values()):  # a weaker one is worse still
                break
        best = min(errors, key=lambda ridge: errors[ridge])
        return best, errors[best]


def _together(layers: Sequence[Layer]) -> List[List[Layer]]:
    """Return layers in the order of execution, those that read the same tensor together."""
    found: Dict[int, List[Layer]] = {}
    for layer in layers:
        # what it is added to may come of layers that are solved after others that read the same
        found.setdefault(layer.source if layer.summand is None else -len(found) - 1, []).append(layer)
    return list(found.values())
