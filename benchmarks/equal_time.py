"""Accuracy at equal milliseconds: a target in time beside targets in FLOPs, all repaired and none trained.

MMPRUNE_DATA=... python benchmarks/equal_time.py --only mobilenet-v2
MMPRUNE_DATA=... python benchmarks/equal_time.py --only resnet18-narrow --shares 0.8 --rounds 2
python benchmarks/equal_time.py --write    # docs/equal_time.md, of what is there

Group Fisher, cut in rounds, each followed by the repair in closed form. `latency` is a target in time, with scores that
are divided by a channel's activations as in the paper; `latency, undivided` leaves them whole, since time is weighed.
`flops, padded` is a target in FLOPs whose widths are rounded up to whole blocks for deployment, as a divisor does;
`flops, whole blocks` removes whole blocks only. Their share of the FLOPs is chosen by bisection such that what is
deployed takes the time of `latency`, by the table first, then measured beside it. What is there already is not run
again: remove a file of the results to measure it anew.
"""
import argparse
import datetime
import shlex
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Union

import numpy as np
import torch
from equal_time_page import PAGE, document
from padded_time import PaddedTime, widths
from timed_structures import times
from trained_networks import NETWORKS

from mmprune.arguments import UserError
from mmprune.command_line import run
from mmprune.deploy.machine import cpu_name
from mmprune.files import read_json, write_json, write_text
from mmprune.latency.meter import Meter
from mmprune.pruning.example import mutator_of
from mmprune.pruning.pruner import Pruner
from mmprune.pruning.search import share_of_cost
from mmprune.pruning.time_target import TimeTarget

ABOUT = '\n\n'.join([' '.join(part.split()) for part in __doc__.split('\n\n')[2:]])
SHARES, SEEDS = (0.8, 0.65), (0, 1, 2)
#: Way -> what Group Fisher scores are divided by.
WAYS = {'latency': 'act', 'latency, undivided': 'none', 'flops, padded': 'act', 'flops, whole blocks': 'act'}
DEFAULT = ['latency', 'flops, padded']
#: Fresh processes of a measurement on the way, and of the one that is reported.
ON_THE_WAY, AT_THE_END = 3, 9


class Bench:
    """One network: its latency table, and what has been measured of it.

    Args:
        network: One of ``trained_networks``.
        folder (Path): Of the results.
        runtime (dict): Type and arguments of the runtime.
        command (list[str]): What timing processes are run by.
        rounds (int or str): See :meth:`Pruner.cut_in_rounds`.
        loss (str): ``own``: that of the network; ``outputs``: see :meth:`Pruner.calibrate`.
    """

    def __init__(self, network: Any, folder: Path, runtime: Dict[str, Any], command: List[str],
                 rounds: Union[int, str], loss: str) -> None:
        self.network, self.runtime, self.command, self.rounds, self.loss = network, runtime, command, rounds, loss
        self.folder = folder / network.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.dense = network.model()
        self.x = torch.zeros(network.shape)
        self.table_path = str(self.folder / 'table.json')
        mutator = mutator_of(network.model(), self.x, None, network.mutate_linear)
        self.meter = Meter(dict(runtime, table=self.table_path), mutator)

    def measure_table(self) -> None:
        """Measure the table, and the accuracy of the dense network."""
        self.table = self.meter.table()
        path = self.folder / 'dense.json'
        if not path.exists():
            table = self.table
            write_json(dict(date=datetime.date.today().isoformat(), machine=f'{cpu_name()}; onnxruntime '
                            f'{self.meter.runtime.version()}, torch {torch.__version__}', threads=table.runtime.get(
                                'threads'), block=table.block, networks=table.networks, r2=table.calibration.r2,
                            largest_error=table.calibration.largest_error, **self.network.judged(self.dense)), path)

    def shares_of(self, structures: List[Mapping[str, int]]) -> List[float]:
        """Return what share of the dense time each structure takes."""
        return [one.share for one in times(self.meter, self.runtime, structures, self.command, ON_THE_WAY)]

    def path(self, share: float, seed: int, way: str) -> Path:
        """Return the file of one result."""
        return self.folder / f'{share:g}_{seed}_{way.replace(", ", "_").replace(" ", "_")}.json'

    def prune(self, share: float, seed: int, way: str) -> None:
        """Prune in one way, repair, and write what is left."""
        if self.path(share, seed, way).exists():
            return
        torch.manual_seed(seed)
        began = time.monotonic()
        is_time = way.startswith('latency')
        pruner = Pruner(self.network.model(), self.x, dict(type='GroupFisher', normalization_type=WAYS[way]),
                        target=dict(latency=share) if is_time else dict(flops=share),
                        runtime=dict(self.runtime, table=self.table_path) if is_time else None,
                        mutate_linear=self.network.mutate_linear)
        pruner.calibrate(self.network.calibration(seed), self.network.loss if self.loss == 'own' else self.loss)
        if is_time:  # timed as the others are, in fresh processes
            pruner._time = TimeTarget(self.table, lambda counts: self.shares_of([counts])[0])
            repairs = pruner.cut_in_rounds(rounds=self.rounds)
        else:
            beside = read_json(self.path(share, seed, 'latency'), 'result')['deployed']
            align = 1 if way == 'flops, padded' else self.table.block
            repairs = PaddedTime(pruner, self.table, align, self.shares_of, beside).cut_in_rounds(self.rounds)
        counts, deployed = widths(pruner, self.table.block)
        cost = pruner.mutator.complexity.cost
        attempts = [] if pruner.plan is None else [attempt._asdict() for attempt in pruner.plan.attempts]
        row = dict(way=way, asked=share, seed=seed, scored_by=self.loss, rounds=len(repairs), attempts=attempts,
                   flops=pruner.mutator.cost['macs'] / cost({})['macs'], error=repairs[-1].after, counts=counts,
                   deployed=deployed, seconds=time.monotonic() - began, **self.network.judged(pruner.model))
        write_json(row, self.path(share, seed, way))
        print(self.network.name, {key: value for key, value in row.items() if key not in ('counts', 'deployed')},
              flush=True)

    def time(self, share: float) -> None:
        """Time all that was pruned to a share beside the dense network, in one session."""
        paths = sorted(self.folder.glob(f'{share:g}_*.json'))
        rows = [read_json(path, 'result') for path in paths]
        measured = times(self.meter, self.runtime, [row['deployed'] for row in rows], self.command, AT_THE_END)
        mutator = self.meter.mutator
        for path, row, one in zip(paths, rows, measured):
            masks = {unit.name: np.arange(len(unit.kept)) < row['deployed'][unit.name] for unit in mutator.units}
            write_json(dict(row, share=one.share, ms=one.ms, dense_ms=one.dense_ms,
                            deployed_flops=share_of_cost(mutator, masks, 'flops')), path)


def measure(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.torch_threads)
    runtime = dict(type='OnnxRuntime', threads=args.threads)
    if not args.only:
        raise UserError(f'nothing says what to prune: give --only with one of {", ".join(NETWORKS)}, or --write alone')
    bench = Bench(NETWORKS[args.only](), args.results, runtime, shlex.split(args.timed_by), args.rounds or 'auto',
                  args.loss)
    bench.measure_table()
    for seed in args.seeds if not args.table else ():
        for share in args.shares:
            for way in args.ways:
                bench.prune(share, seed, way)
    for share in args.shares if not args.table else ():
        bench.time(share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', choices=[*NETWORKS], help='the network')
    parser.add_argument('--results', type=Path, default=Path('work_dirs/equal_time'), help='folder of the results')
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS, help='of the calibration images (0 1 2)')
    parser.add_argument('--shares', type=float, nargs='+', default=SHARES, help='of the dense time (0.8 0.65)')
    parser.add_argument('--ways', nargs='+', choices=[*WAYS], default=DEFAULT, help='which, latency first (two)')
    parser.add_argument('--rounds', type=int, help='of cutting and repair (at most 8 %% of the FLOPs in each)')
    parser.add_argument('--loss', choices=['own', 'outputs'], default='own', help='that scores look at (own)')
    parser.add_argument('--threads', type=int, default=1, help='of onnxruntime (1)')
    parser.add_argument('--torch-threads', type=int, default=1, help='of scoring and repair (1)')
    parser.add_argument('--timed-by', default='', metavar='COMMAND',
                        help="what timing processes are run by, such as 'taskset -c 1'")
    parser.add_argument('--table', action='store_true', help='measure the latency table and the dense network only')
    parser.add_argument('--write', action='store_true', help='write docs/equal_time.md from the results only')
    args = parser.parse_args()
    if args.write:
        write_text(document(args.results, ABOUT), PAGE)
    else:
        measure(args)


if __name__ == '__main__':
    run(main)
