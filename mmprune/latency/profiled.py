"""Measure a latency table: networks of random widths, each profiled whole, so that every layer runs in its place."""
import tempfile
from copy import deepcopy
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import UserError, whole_number
from ..deploy.runtimes.runtime import NodeTime, Runtime
from ..units.mutator import ChannelMutator
from .channel_sum import ChannelSum, channel_sums, crossed, find_sum
from .node_law import ObservedNode, fit_laws
from .pruned_copy import PrunedCopy
from .table import Calibration, LatencyTable
from .widths import levels_of

#: Networks that a table is made from, and the share of them that only tests it.
NETWORKS, HELD_BACK = 32, 0.25
#: Seconds of runs of one network, and the fewest runs; those of the dense network before and after it.
SECONDS, LEAST_RUNS = 0.3, 4
ANCHOR_SECONDS, ANCHOR_RUNS = 0.15, 2
#: Runs that are profiled at most: every one writes a line for every node.
MOST_PROFILED = 100
#: Milliseconds below which a network is measured twice: the shorter a run, the more disturbs it.
SHORT = 40.0
#: While no two of its measurements are as near as this, it is measured again, so often at most: with two threads one
#: session in forty is a fifth slower than the others.
NEAR, MOST_TURNS = 0.06, 5
#: Networks are as wide as this share of the dense one, and each unit as this share of that.
WIDTHS, SPREAD = (0.35, 1.0), (0.6, 1.4)
#: Times, over the dense one, at which targets lie: there a table must predict well.
ASKED = (0.4, 0.8)
CONVOLUTIONS = ('Conv', 'FusedConv', 'Convolution', 'GroupConvolution', 'Conv2d')
#: Operators that sum over the last axis of their first input, as exporters write it: what they read is of its size.
PRODUCTS = ('Gemm', 'MatMul', 'FusedMatMul', 'FusedGemm', 'FullyConnected', 'Linear')

Progress = Callable[[int, int], None]


class Measured(NamedTuple):
    """A network of some widths, measured.

    Attributes:
        counts (dict[str, int]): Unit name -> sets.
        nodes (dict[str, NodeTime]): Name -> node, of the runtime's profile.
        milliseconds (float): Median run without the profiler.
    """

    counts: Dict[str, int]
    nodes: Dict[str, NodeTime]
    milliseconds: float


def random_widths(mutator: ChannelMutator, block: int, count: int, seed: int = 0) -> Iterator[Dict[str, int]]:
    """Yield structures, unit name -> sets, on the grid of a block: the dense one first, then random ones."""
    units = list(mutator.units)
    yield {unit.name: len(unit.kept) for unit in units}
    random = np.random.RandomState(seed)
    for _ in range(count - 1):
        share = random.uniform(*WIDTHS)
        counts = {}
        for unit in units:
            wanted = share * random.uniform(*SPREAD) * len(unit.kept)
            levels = levels_of(len(unit.kept), unit.min_sets, unit.sets_in(block))
            counts[unit.name] = int(min(levels, key=lambda level: abs(level - wanted)))
        yield counts


def measure_table(mutator: ChannelMutator, runtime: Runtime, x: Tensor, block: int, networks: int = NETWORKS,
                  seed: int = 0, rest_ms: float = 0.0, progress: Optional[Progress] = None) -> LatencyTable:
    """Measure the latency table of a model.

    Args:
        mutator (ChannelMutator): Of the model, which is not changed.
        runtime (Runtime): That profiles.
        x (Tensor[N, C, H, W]): The input.
        block (int): Channels that the runtime computes together.
        networks (int): How many networks are measured, the dense one among them; 8 at least, and 16 of a transformer,
            whose heads have few numbers to be told apart by.
        seed (int): Of their widths.
        rest_ms (float): Milliseconds outside of the network.
        progress (Callable, optional): Told how many networks are measured, of how many.

    Raises:
        UserError: The runtime cannot profile, or cannot run the model.
    """
    whole_number('networks', networks, 16 if any(unit.channels.part for unit in mutator.units) else 8)
    copy, structures = PrunedCopy(mutator), random_widths(mutator, block, networks, seed)
    with tempfile.TemporaryDirectory() as folder:
        anchor = _Anchor(runtime, copy, next(structures), x, Path(folder))
        measured = [anchor.network]
        for counts in structures:
            measured.append(anchor.measure(counts))
            if progress is not None:
                progress(len(measured), networks)
    return fit_table(measured, channel_sums(mutator), block, runtime.describe(), tuple(x.shape), rest_ms)


class _Anchor:
    """The dense network, timed before and after every other: a machine's speed wanders by a tenth within seconds.

    Args:
        runtime (Runtime): That profiles.
        copy (PrunedCopy): Of the model.
        dense (dict[str, int]): Unit name -> sets.
        x (Tensor[N, C, H, W]): The input.
        folder (Path): For files.

    Attributes:
        network (Measured): The dense network.
    """

    def __init__(self, runtime: Runtime, copy: PrunedCopy, dense: Dict[str, int], x: Tensor, folder: Path) -> None:
        self.runtime, self.copy, self.x, self.folder = runtime, copy, x, folder
        with torch.no_grad():
            self.source = runtime.prepare(copy.cut_to(dense), x, folder / 'dense.onnx')
        if isinstance(self.source, nn.Module):  # the copy itself, which is about to lose channels
            self.source = deepcopy(self.source)
        self._now = self._milliseconds()
        self.is_short = self._now < SHORT
        self._now = self._anchored()
        self.network = self._settled(lambda: self._of(dense, self.source))
        self.usual = self.network.milliseconds

    def _milliseconds(self) -> float:
        return self.runtime.median_ms(self.source, self.x, ANCHOR_SECONDS, ANCHOR_RUNS)

    def _anchored(self) -> float:
        """Return what the dense network takes now; where that is new, it is believed when it is measured again."""
        known = [self._now, self._milliseconds()]
        while self.is_short and len(known) <= MOST_TURNS and not any(
                abs(known[-1] / other - 1) <= NEAR for other in known[:-1]):
            known.append(self._milliseconds())
        return known[-1]

    def _of(self, counts: Dict[str, int], source: Any) -> Measured:
        """Measure a network: run it for some tenths of a second, and profile it as long."""
        milliseconds = self.runtime.median_ms(source, self.x, SECONDS, LEAST_RUNS)
        runs = min(MOST_PROFILED, max(LEAST_RUNS, int(1000 * SECONDS / milliseconds)))
        nodes = self.runtime.profiled(source, self.x, runs)
        return Measured(dict(counts), named(nodes), milliseconds)

    def measure(self, counts: Dict[str, int]) -> Measured:
        """Measure a network of some widths, in times of a machine on which the dense one takes its usual time."""
        with torch.no_grad():
            source = self.runtime.prepare(self.copy.cut_to(counts), self.x, self.folder / 'network.onnx')
        return self._settled(lambda: self._turn(counts, source))

    def _settled(self, measure: Callable[[], Measured]) -> Measured:
        """Return the median of as many measurements of a network as it takes until two agree."""
        turns = [measure()]
        while self.is_short and len(turns) < MOST_TURNS and not _agree(turns):
            turns.append(measure())
        return _median(turns)

    def _turn(self, counts: Dict[str, int], source: Any) -> Measured:
        found, before, self._now = self._of(counts, source), self._now, self._anchored()
        factor = self.usual / ((before + self._now) / 2)
        nodes = {name: replace(node, milliseconds=factor * node.milliseconds) for name, node in found.nodes.items()}
        return Measured(found.counts, nodes, factor * found.milliseconds)


def _agree(turns: Sequence[Measured]) -> bool:
    """Tell whether two measurements of a network came to the same time, of whole runs and of its nodes."""
    times = np.array([(one.milliseconds, sum(node.milliseconds for node in one.nodes.values())) for one in turns])
    return any(bool((np.abs(one / other - 1) <= NEAR).all()) for one, other in combinations(times, 2))


def _median(turns: Sequence[Measured]) -> Measured:
    """Return the median of several measurements of the same network."""
    first = turns[0]
    nodes = {name: replace(node, milliseconds=median(one.nodes[name].milliseconds for one in turns))
             for name, node in first.nodes.items() if all(name in one.nodes for one in turns)}
    return Measured(first.counts, nodes, median(one.milliseconds for one in turns))


def named(nodes: Sequence[NodeTime]) -> Dict[str, NodeTime]:
    """Return name -> node; of several of one name, such as reorders, all but the first with their number."""
    found: Dict[str, NodeTime] = {}
    for node in nodes:
        name = node.name
        while name in found:
            name = f'{node.name} ({len(found)})'
        found[name] = node
    return found


def fit_table(measured: Sequence[Measured], sums: Sequence[ChannelSum], block: int, runtime: Mapping[str, object],
              shape: Tuple[int, ...], rest_ms: float) -> LatencyTable:
    """Return the table of measured networks, the first of which is dense.

    It is fitted twice: to three quarters of the networks, to tell how well it predicts the others, then to all.
    """
    structures = [one.counts for one in measured]
    times = np.array([one.milliseconds for one in measured])
    nodes = observed_nodes(measured, sums)
    seen = np.arange(len(measured)) % round(1 / HELD_BACK) != 1
    trial = _fitted(nodes, structures, times, block, seen)
    predicted = np.array([trial.predict(counts) for counts in structures])
    errors = np.abs(predicted / times - 1)
    asked = ~seen & (times >= ASKED[0] * times[0]) & (times <= ASKED[1] * times[0])
    largest = float(errors[asked if asked.any() else ~seen].max())
    rest = times[~seen] - times[~seen].mean()
    r2 = 1 - float(((predicted - times)[~seen] ** 2).sum() / max(float((rest ** 2).sum()), 1e-12))
    table = _fitted(nodes, structures, times, block, np.ones_like(seen))
    table.calibration.r2, table.calibration.largest_error = r2, largest
    table.runtime, table.input_shape, table.rest_ms = dict(runtime), shape, rest_ms
    return table


def _fitted(nodes: Sequence[ObservedNode], structures: Sequence[Dict[str, int]], times: np.ndarray, block: int,
            used: np.ndarray) -> LatencyTable:
    laws = fit_laws(nodes, structures, block, used)
    table = LatencyTable({}, (), dict(structures[0]), block, float(times[0]), laws, Calibration(0.0, 1.0, 0.0, 0.0),
                         len(structures))
    sums = np.array([table.predict(counts) for counts in structures])
    line = np.stack([np.ones_like(sums), sums], axis=1)
    offset, scale = np.linalg.lstsq(line[used] / times[used, None], np.ones(int(used.sum())), rcond=None)[0]
    if scale <= 0:
        raise UserError('the time of whole runs does not grow with that of their nodes: the machine is too busy to '
                        'measure a latency table')
    table.calibration.offset, table.calibration.scale = float(offset), float(scale)
    return table


def observed_nodes(measured: Sequence[Measured], sums: Sequence[ChannelSum]) -> List[ObservedNode]:
    """Return the nodes of all networks with the channels that they read and write.

    Nodes that not every network has, or whose channels fit no sum of units or product of such sums (reorders, whose
    names change places), are taken together by their operator, as a time that no unit changes.
    """
    structures = [one.counts for one in measured]
    found: List[ObservedNode] = []
    loose: Dict[str, np.ndarray] = {}
    names = dict.fromkeys(name for one in measured for name in one.nodes)
    for name in names:
        nodes = [one.nodes.get(name) for one in measured]
        whole = [node for node in nodes if node is not None]
        node = _observed(whole, structures, sums) if len(whole) == len(measured) else None
        if node is not None:
            found.append(node)
            continue
        times = np.array([0.0 if one is None else one.milliseconds for one in nodes])
        loose[whole[0].op] = loose.get(whole[0].op, 0.0) + times
    nothing = ChannelSum(())
    return found + [ObservedNode(f'{op} (all)', op, (op, 'all'), True, nothing, nothing, times)
                    for op, times in loose.items()]


def _observed(nodes: Sequence[NodeTime], structures: Sequence[Mapping[str, int]],
              sums: Sequence[ChannelSum]) -> Optional[ObservedNode]:
    """Return a node with its channels, or None where these fit no sum of units."""
    first = nodes[0]
    if len({node.op for node in nodes}) > 1 or len({tuple(map(len, node.outputs)) for node in nodes}) > 1:
        return None
    times = np.array([node.milliseconds for node in nodes])
    if first.op in CONVOLUTIONS and len(first.inputs) > 1:
        weights = [node.inputs[1] for node in nodes]
        reads = find_sum([node.inputs[0][1] for node in nodes], structures, sums)
        writes = find_sum([weight[0] for weight in weights], structures, sums)
        alone = first.inputs[0][1] > 1 and all(weight[1] == 1 for weight in weights)
        kind: Tuple[object, ...] = (first.op, alone, weights[0][2:], first.inputs[0][2:], first.outputs[0][2:],
                                    len(first.inputs))
    else:
        sizes, kind = _varying(nodes)
        found = [find_sum(one, structures, sums) for one in sizes]
        alone = len(found) < 2
        reads = ChannelSum(()) if alone else found[0]
        writes = crossed(found if alone else found[1:])
    if reads is None or writes is None:
        return None
    return ObservedNode(first.name, first.op, kind, alone, reads, writes, times)


def _varying(nodes: Sequence[NodeTime]) -> Tuple[List[List[int]], Tuple[object, ...]]:
    """Return the sizes of a node that differ between networks, that which is summed over first, and its kind."""
    first = nodes[0]
    shapes = [(*(node.inputs[0][-1:] if first.op in PRODUCTS and node.inputs else ()),
               *(node.outputs[0] if node.outputs else ())) for node in nodes]
    columns = [list(column) for column in zip(*shapes)]
    kind = (first.op, *(None if len({*column}) > 1 else column[0] for column in columns))
    return [column for column in columns if len({*column}) > 1], kind
