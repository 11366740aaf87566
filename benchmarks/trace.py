"""Measure how long finding a model's channel units takes, side by side with torch-pruning's dependency graph.

python -m pip install --no-deps -r requirements/benchmarks.txt    # optional: torch-pruning's columns are '-' without it
python benchmarks/trace.py
python benchmarks/trace.py --models resnet50 densenet201 --repeats 9 --markdown --json trace.json

Ours: the trace with grouping, the trial cut, and the whole `ChannelMutator.prepare`, which does both. Theirs: building
the dependency graph, and that with all pruning groups; they have no trial cut. One process, the same model and the same
image, in turns; a cell is the median of the repeats (least-most), a ratio the median over the repeats. The first run of
each is measured apart, in a fresh process, because a user pays that one: without the script's imports and the building
of the model, but with what torch imports on first use (torch._dynamo, in ours).

Two threads on two cores wait for one another as soon as anything else runs: either the machine is idle, or --threads 1.
"""
import argparse
import datetime
import gc
import importlib.util
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

import torch
from mmengine.registry import init_default_scope

from mmprune.command_line import device, emit_json, run
from mmprune.graph.demo_input import DemoInput
from mmprune.graph.grouping import build_graph
from mmprune.models.from_config import dense_config, read_config
from mmprune.registry import MODELS
from mmprune.units.breaking import breaking_units
from mmprune.units.mutator import ChannelMutator

T = TypeVar('T')
INSTALL = 'torch-pruning is not installed: python -m pip install --no-deps -r requirements/benchmarks.txt'


class Subject(NamedTuple):
    """A model to measure: a config of mmcls and, in seconds, what `prepare` may take."""

    config: str
    bar: Optional[float] = None


SUBJECTS = {
    'resnet50': Subject('resnet/resnet50_8xb32_in1k.py', 3),
    'efficientnet-b0': Subject('efficientnet/efficientnet-b0_8xb32_in1k.py', 3),
    'densenet201': Subject('densenet/densenet201_4xb256_in1k.py', 8),
    'hrnet-w18': Subject('hrnet/hrnet-w18_4xb32_in1k.py', 15),
    'resnet101': Subject('resnet/resnet101_8xb32_in1k.py'),
    'resnet152': Subject('resnet/resnet152_8xb32_in1k.py'),
}
INPUT_SHAPE = (1, 3, 224, 224)
#: One architecture in three depths.
LINEARITY = ('resnet50', 'resnet101', 'resnet152')


@dataclass
class Result:
    """What was measured of one model.

    Attributes:
        model (str): Key of `SUBJECTS`.
        load (float): Load average of the machine over the last minute, before the repeats.
        layers (int): Calls of conv and linear layers.
        units (int): Units that the trace found.
        groups (int or None): Pruning groups that torch-pruning found.
        seconds (dict[str, list[float]]): Step -> seconds of each repeat.
        first (dict[str, float]): Step -> seconds of the first run in a fresh process.
    """

    model: str
    load: float
    layers: int = 0
    units: int = 0
    groups: Optional[int] = None
    seconds: Dict[str, List[float]] = field(default_factory=dict)
    first: Dict[str, float] = field(default_factory=dict)

    def cell(self, step: str) -> str:
        """Return the median and the spread of a step, or ``-``."""
        values = self.seconds.get(step)
        return f'{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})' if values else '-'

    def ratio(self, step: str) -> str:
        """Return how many times as long as a step of ours torch-pruning's graph and groups take, or ``-``."""
        pairs = list(zip(self.seconds.get('their groups', []), self.seconds[step]))
        return f'{statistics.median(theirs / ours for theirs, ours in pairs):.2f}' if pairs else '-'

    def verdict(self) -> str:
        """Return the bar, and whether the median of `prepare` meets it."""
        bar = SUBJECTS[self.model].bar
        if bar is None:
            return '-'
        return f'<= {bar:g} {"met" if statistics.median(self.seconds["prepare"]) <= bar else "MISSED"}'


def timed(function: Callable[[], T]) -> Tuple[float, T]:
    """Return the seconds of a call and its value; garbage of earlier calls is collected before."""
    gc.collect()
    start = time.perf_counter()
    value = function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start, value


class Case:
    """One model and its demo input.

    Args:
        name (str): Key of `SUBJECTS`.
        threads (int): Threads of torch.
        device (str): Where the model is.
    """

    def __init__(self, name: str, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        init_default_scope('mmcls')
        cfg = read_config(f'mmcls::{SUBJECTS[name].config}')
        self.model = MODELS.build(dense_config(cfg)[0]).eval().to(device)
        self.demo_input = DemoInput(INPUT_SHAPE)

    def mutator(self, trial_cut: bool = True) -> ChannelMutator:
        """Return a mutator that is prepared on the model; the model is not changed."""
        mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=INPUT_SHAPE), trial_cut=trial_cut)
        mutator.prepare(self.model)
        return mutator

    def count(self, result: Result) -> None:
        """Fill in the numbers of layers and units, and keep the units for the trial cut."""
        graph = build_graph(self.model, self.demo_input)
        result.layers = sum(call.kind in ('conv', 'linear') for call in graph.calls)
        result.units = len(graph.units)
        self.candidates = self.mutator(trial_cut=False).units

    def ours(self) -> Dict[str, float]:
        """Return step -> seconds."""
        return {'trace': timed(lambda: build_graph(self.model, self.demo_input))[0],
                'trial': timed(lambda: breaking_units(self.model, self.candidates, self.demo_input))[0],
                'prepare': timed(self.mutator)[0]}

    def theirs(self) -> Tuple[Dict[str, float], int]:
        """Return step -> seconds, and the number of groups; the seconds of the groups include the graph."""
        import torch_pruning
        inputs = (self.demo_input.tensor(self.model),)
        graph, dependencies = timed(
            lambda: torch_pruning.DependencyGraph().build_dependency(self.model, inputs, verbose=False))
        groups, found = timed(lambda: list(dependencies.get_all_groups()))
        return {'their graph': graph, 'their groups': graph + groups}, len(found)


def has_theirs() -> bool:
    """Return whether torch-pruning is installed."""
    return importlib.util.find_spec('torch_pruning') is not None


def first_of_ours(name: str, threads: int, device: str) -> Dict[str, float]:
    """Build a model and return the seconds of one `prepare`."""
    return {'prepare': timed(Case(name, threads, device).mutator)[0]}


def first_of_theirs(name: str, threads: int, device: str) -> Dict[str, float]:
    """Build a model and return the seconds of torch-pruning's steps."""
    return Case(name, threads, device).theirs()[0]


def in_fresh_process(function: Callable[..., T], *args: Any) -> T:
    """Return the value of a call that is the first of its process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        return pool.submit(function, *args).result()


def measure(name: str, repeats: int, threads: int, device: str) -> Result:
    """Measure one model: the first runs, then the repeats in turns."""
    first = in_fresh_process(first_of_ours, name, threads, device)
    if has_theirs():
        first.update(in_fresh_process(first_of_theirs, name, threads, device))
    case = Case(name, threads, device)
    result = Result(name, os.getloadavg()[0], first=first)
    case.count(result)
    if has_theirs():
        case.theirs()  # the counting has warmed ours up
    for _ in range(repeats):
        found = case.ours()
        if has_theirs():
            seconds, result.groups = case.theirs()
            found.update(seconds)
        for step, value in found.items():
            result.seconds.setdefault(step, []).append(value)
    return result


def machine() -> Dict[str, Any]:
    """Return the date, the CPU and the versions."""
    cpuinfo = Path('/proc/cpuinfo')
    names = re.findall(r'model name\s*: (.*)', cpuinfo.read_text()) if cpuinfo.exists() else []
    packages = ['torch', 'mmcls', *['torch-pruning'] * has_theirs()]
    return dict(date=datetime.date.today().isoformat(), cpu=names[0] if names else platform.processor(),
                cores=os.cpu_count(), versions={package: metadata.version(package) for package in packages})


def format_table(rows: Sequence[Sequence[str]], markdown: bool) -> str:
    """Return a table whose first row is the head and whose first column is a name."""
    if markdown:
        rule = ['---', *['---:'] * (len(rows[0]) - 1)]
        return '\n'.join(f'| {" | ".join(row)} |' for row in [rows[0], rule, *rows[1:]])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join(cell.ljust(width) if number == 0 else cell.rjust(width)
                               for number, (cell, width) in enumerate(zip(row, widths))) for row in rows)


def ours_table(results: Sequence[Result]) -> List[List[str]]:
    """Return the rows of our steps."""
    rows = [['mmprune (s)', 'layers', 'units', 'trace + grouping', 'trial cut', 'prepare', 'bar', 'first prepare',
             'load average']]
    for result in results:
        rows.append([result.model, str(result.layers), str(result.units), result.cell('trace'), result.cell('trial'),
                     result.cell('prepare'), result.verdict(), f'{result.first["prepare"]:.2f}', f'{result.load:.1f}'])
    return rows


def theirs_table(results: Sequence[Result]) -> List[List[str]]:
    """Return the rows of torch-pruning's steps, and how many times as long as ours they take."""
    rows = [['torch-pruning (s)', 'groups', 'graph', 'graph + groups', 'first graph + groups',
             'theirs / our trace + grouping', 'theirs / our prepare']]
    for result in results:
        first = result.first.get('their groups')
        rows.append([result.model, '-' if result.groups is None else str(result.groups), result.cell('their graph'),
                     result.cell('their groups'), '-' if first is None else f'{first:.2f}', result.ratio('trace'),
                     result.ratio('prepare')])
    return rows


def linearity_table(results: Sequence[Result]) -> List[List[str]]:
    """Return the rows of one architecture in several depths: seconds, and milliseconds a layer."""
    rows = [['linearity', 'layers', 'trace + grouping (s)', 'ms a layer', 'prepare (s)', 'ms a layer']]
    for result in results:
        trace, prepare = (statistics.median(result.seconds[step]) for step in ('trace', 'prepare'))
        rows.append([result.model, str(result.layers), f'{trace:.2f}', f'{1000 * trace / result.layers:.1f}',
                     f'{prepare:.2f}', f'{1000 * prepare / result.layers:.1f}'])
    return rows


def format_results(results: Sequence[Result], about: Dict[str, Any], markdown: bool) -> str:
    """Return what was run, where and when, and the tables."""
    versions = ', '.join(f'{package} {version}' for package, version in about['versions'].items())
    parts = [f'{about["date"]}; {about["cpu"]}, {about["cores"]} cores; {versions}; threads: {about["threads"]}, '
             f'repeats: {about["repeats"]}; load averages {about["load_before"]} before, {about["load_after"]} after',
             format_table(ours_table(results), markdown), format_table(theirs_table(results), markdown)]
    deep = [result for name in LINEARITY for result in results if result.model == name]
    if len(deep) > 1:
        parts.append(format_table(linearity_table(deep), markdown))
    if not has_theirs():
        parts.append(INSTALL)
    return '\n\n'.join(parts)


def load_averages() -> str:
    """Return the load of the machine over 1, 5 and 15 minutes."""
    return ' '.join(f'{load:.1f}' for load in os.getloadavg())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=list(SUBJECTS), default=list(SUBJECTS), help='models (all)')
    parser.add_argument('--repeats', type=int, default=5, help='timed runs of each (5)')
    parser.add_argument('--threads', type=int, default=2, help='threads of torch (2)')
    parser.add_argument('--device', type=device, default='cpu', help='where models are run (cpu)')
    parser.add_argument('--markdown', action='store_true', help='print markdown tables')
    parser.add_argument('--json', metavar='FILE', help='write every number to a json file; - for stdout')
    args = parser.parse_args()
    if min(args.threads, args.repeats) < 1:
        parser.error('--threads and --repeats must be 1 or more')
    about = dict(machine(), threads=args.threads, repeats=args.repeats, load_before=load_averages())
    results = []
    for name in args.models:
        sys.stderr.write(f'{name} ...\n')
        results.append(measure(name, args.repeats, args.threads, args.device))
    about['load_after'] = load_averages()
    if args.json != '-':
        print(format_results(results, about, args.markdown))
    if args.json:
        emit_json(dict(about, results=[asdict(result) for result in results]), args.json)


if __name__ == '__main__':
    run(main)
