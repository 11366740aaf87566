"""What a repair saves of the training that follows: the narrow ResNet-18 on CIFAR-10, finetuned with and without it.

MMPRUNE_DATA=... python benchmarks/repair_finetune.py                             # what has no result yet
python benchmarks/repair_finetune.py --markdown docs/repair_finetune.md           # the page, without a run

Group Fisher takes the network to half and to 30 % of its multiply-adds; the repair sees the same training images, in
rounds. Then both are trained alike for 6 epochs, and the repaired one for fewer too, each time with a schedule of its
own whose learning rate falls to zero. A seed is that of the images, of their order and their crops. A piece is a share,
a seed, a way and a number of epochs; its result is a line of the results file, and it is not run again.
"""
import argparse
import copy
import datetime
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import computing
import torch
from computing import Computing
from criteria_table import CALIBRATION, FINETUNE, SEEDS, SHAPE, Bench, read_results
from torch.nn import functional

from mmprune.command_line import run
from mmprune.files import write_text
from mmprune.pruning.pruner import Pruner

ROOT = Path(__file__).resolve().parents[1]
SHARES = (0.5, 0.3)
#: Epochs of the whole schedule.
WHOLE = 6
#: Share -> epochs that are tried after a repair, until they reach what the whole schedule does without one.
FEWER = {0.5: (1, 2, 3), 0.3: (1, 2, 3, 4, 5)}


class Piece(NamedTuple):
    """One line of the results file."""

    share: float
    seed: int
    repaired: bool
    epochs: int


PIECES = [Piece(share, seed, repaired, epochs) for share in SHARES for seed in SEEDS
          for repaired, epochs in [(False, WHOLE), (True, WHOLE), *((True, few) for few in FEWER[share])]]


class Runs:
    """Prunes once for each share, seed and way, and finetunes copies.

    Args:
        computing (Computing): Where it is computed.
    """

    def __init__(self, computing: Computing) -> None:
        self.bench = Bench(computing)
        self.pruned: Dict[Any, Any] = {}

    def network(self, piece: Piece, order: torch.Tensor) -> Any:
        """Return the pruned network, of this seed, share and way."""
        key = piece[:3]
        if key not in self.pruned:
            calibration = self.bench.batches(self.bench.train, order[:CALIBRATION])
            pruner = Pruner(copy.deepcopy(self.bench.model).eval(), torch.zeros(SHAPE), 'GroupFisher',
                            target=dict(flops=piece.share))
            pruner.calibrate(calibration, functional.cross_entropy)
            if piece.repaired:
                pruner.cut_in_rounds()
            else:
                pruner.cut()
            self.pruned = {key: self.bench.computing.placed(pruner.model)}
        return copy.deepcopy(self.pruned[key])

    def run(self, piece: Piece) -> Dict[str, Any]:
        """Prune, train and measure."""
        generator = torch.Generator().manual_seed(piece.seed)
        order = torch.randperm(len(self.bench.train.labels), generator=generator)
        model = self.network(piece, order)
        before, began = self.bench.accuracy(model), time.perf_counter()
        self.bench.finetune(model, order[CALIBRATION:CALIBRATION + FINETUNE], generator, piece.epochs)
        return dict(piece._asdict(), before=before, seconds=time.perf_counter() - began,
                    finetuned=self.bench.accuracy(model), date=datetime.date.today().isoformat(),
                    cpu=self.bench.computing.name, torch=torch.__version__, threads=torch.get_num_threads(),
                    cores=os.cpu_count())


def piece_of(row: Dict[str, Any]) -> Piece:
    return Piece(*(row[name] for name in Piece._fields))


def spread(values: Sequence[float]) -> str:
    """Return the mean, with the least and the most."""
    return f'{statistics.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})'


def page(results: Sequence[Dict[str, Any]]) -> str:
    """Return the page."""
    date, cpu, version, threads = (', '.join(sorted({str(row[name]) for row in results}))
                                   for name in ('date', 'cpu', 'torch', 'threads'))
    lines = ['# What a repair saves of the finetuning', '',
             f'`MMPRUNE_DATA=... python benchmarks/repair_finetune.py`, {date}; {cpu}, 2 cores shared with others,',
             f'torch {version}, threads: {threads}.', '',
             f'The narrow ResNet-18 on CIFAR-10, pruned by Group Fisher on {CALIBRATION:,} training images; then',
             f'epochs of {FINETUNE:,} images, each number of epochs with a schedule of its own. Top-1 on the 10,000',
             'test images: the mean of the seeds, with the least and the most.', '',
             '| multiply-adds left | network | before | epochs | after | seeds |',
             '| ---: | --- | ---: | ---: | ---: | ---: |']
    for share in SHARES:
        for repaired, epochs in [(False, WHOLE), *((True, few) for few in FEWER[share]), (True, WHOLE)]:
            rows = [row for row in results if piece_of(row)._replace(seed=0) == (share, 0, repaired, epochs)]
            if rows:
                name = 'repaired in rounds' if repaired else 'cut'
                lines.append(f'| {share:.0%} | {name} | {spread([row["before"] for row in rows])} | {epochs} | '
                             f'{spread([row["finetuned"] for row in rows])} | {len(rows)} |')
    return '\n'.join([*lines, ''])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--results', type=Path, default=ROOT / 'work_dirs' / 'repair_finetune.jsonl')
    parser.add_argument('--minutes', type=float, help='no piece starts after this time')
    parser.add_argument('--markdown', metavar='FILE', help='write the page, run nothing')
    computing.add_options(parser)
    args = parser.parse_args()
    if args.markdown:
        write_text(page(read_results(args.results)), args.markdown)
        return
    args.results.parent.mkdir(parents=True, exist_ok=True)
    runs, began = Runs(Computing.of(args)), time.monotonic()
    done: List[Piece] = [piece_of(row) for row in read_results(args.results)]
    for piece in [piece for piece in PIECES if piece not in done]:
        if args.minutes is not None and time.monotonic() - began > 60 * args.minutes:
            break
        result = runs.run(piece)
        with args.results.open('a') as sink:
            sink.write(json.dumps(result) + '\n')
        sys.stderr.write(f'{piece}: {result["before"]:.2f}, {result["finetuned"]:.2f}\n')


if __name__ == '__main__':
    run(main)
