"""Repair a detector without training: RetinaNet on blood cells, after criteria took a part of its multiply-adds.

MMPRUNE_DATA=... python benchmarks/repair_detector.py CHECKPOINT
MMPRUNE_DATA=... python benchmarks/repair_detector.py CHECKPOINT --flops 0.5 --only GroupFisher

CHECKPOINT is of the dense network (tools/train.py on the config). Every criterion cuts it, with the training images
as its data. What is left is evaluated as it is, with the statistics of its norms measured anew, repaired once, and cut
and repaired by turns. Each is a line of the results file and is not run again; at the end all are printed as a table.
"""
import argparse
import copy
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

import computing
import torch
from computing import Computing
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from torch import Tensor

from mmprune.command_line import run
from mmprune.models.architecture import build_architecture
from mmprune.models.from_config import dense_config, read_config
from mmprune.pruning.pruner import Pruner

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/mmdet/bccd/retinanet_r18_fpn_bccd.py'
CRITERIA = ('GroupFisher', 'Taylor', 'FPGM', 'L2')
TREATMENTS = ('cut', 'norms', 'once', 'rounds')
METRICS = {'AP': 'bbox_mAP', 'AP50': 'bbox_mAP_50', 'AP75': 'bbox_mAP_75'}


class Piece(NamedTuple):
    """One line of the results file."""

    criterion: str
    treatment: str
    flops: float


DENSE = Piece('-', 'dense', 1.0)


class Bench:
    """The trained network, the training images, and the test of the config.

    Args:
        checkpoint (str): Path to the dense weights.
        computing (Computing): Where it is computed.
    """

    def __init__(self, checkpoint: str, computing: Computing) -> None:
        self.computing = computing
        cfg = read_config(str(ROOT / CONFIG))
        init_default_scope(cfg.default_scope)
        self.model: Any = build_architecture(dense_config(cfg)[0], None)[0]
        load_checkpoint(self.model, checkpoint, map_location='cpu')
        computing.placed(self.model.eval())
        loader = dict(cfg.train_dataloader, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
        with torch.no_grad():
            self.batches = [self.model.data_preprocessor(batch, True)
                            for batch in Runner.build_dataloader(loader, seed=0)]
        self.images: List[Tensor] = [computing.placed(batch['inputs']) for batch in self.batches]
        self.test = Runner.build_dataloader(dict(cfg.test_dataloader, num_workers=0, persistent_workers=False), seed=0)
        self.evaluator = Evaluator(cfg.test_evaluator)
        self.evaluator.dataset_meta = self.test.dataset.metainfo  # type: ignore[attr-defined]

    def metrics(self, model: Any) -> Dict[str, float]:
        """Return what the evaluator of the config says of a model on the test images, in per cent."""
        model.eval()
        with torch.no_grad(), self.computing.autocast():
            for batch in self.test:
                self.evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        found = self.evaluator.evaluate(len(self.test.dataset))  # type: ignore[arg-type]
        return {name: 100 * found[f'coco/{key}'] for name, key in METRICS.items()}

    def run(self, piece: Piece) -> Dict[str, Any]:
        """Prune, repair and evaluate."""
        model = copy.deepcopy(self.model)
        began, error = time.perf_counter(), (0.0, 0.0)
        left = 1.0
        if piece != DENSE:
            pruner = Pruner(model, self.images[0][:1], piece.criterion, target=dict(flops=piece.flops))
            if pruner.criterion.needs_data:
                pruner.calibrate([(dict(batch, mode='loss'), None) for batch in self.batches], total_loss(model))
            error = self.pruned(pruner, piece.treatment)
            cost = pruner.mutator.complexity.cost
            left = pruner.mutator.cost['macs'] / cost({})['macs']
        seconds = time.perf_counter() - began
        return dict(self.metrics(model), left=left, before=error[0], after=error[1], seconds=seconds,
                    images=sum(map(len, self.images)), date=datetime.date.today().isoformat(), torch=torch.__version__,
                    device=self.computing.name, threads=torch.get_num_threads(), load=os.getloadavg()[0])

    def pruned(self, pruner: Pruner, treatment: str) -> Sequence[float]:
        """Cut a model and treat it; return the error of its outputs on held-back images after the cut, and then."""
        if treatment == 'rounds':
            done = pruner.cut_in_rounds(self.images)
            return done[0].before, done[-1].after
        dense = copy.deepcopy(pruner.model)
        pruner.cut()
        if treatment == 'cut':
            return float('nan'), float('nan')
        repair = pruner.repair(self.images, dense, 'norms' if treatment == 'norms' else 'full')
        sys.stderr.write('\n'.join(repair.notes()) + '\n')
        return repair.before, repair.after


def total_loss(model: Any) -> Any:
    """Return a loss function for what a detector returns in its mode ``loss``."""
    return lambda losses, targets: model.parse_losses(losses)[0]


def read_results(path: Path) -> Dict[Piece, Dict[str, Any]]:
    """Return piece -> its line of the results file."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {Piece(*line.pop('piece')): line for line in lines}


def table(results: Dict[Piece, Dict[str, Any]]) -> List[str]:
    """Return the lines of a table of all results."""
    lines = ['| criterion | FLOPs left | treatment | AP | of the dense AP | AP50 | AP75 | output error | seconds |',
             '| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |']
    dense = results[DENSE]['AP'] if DENSE in results else float('nan')
    for piece, line in results.items():
        lines.append(f'| {piece.criterion} | {line["left"]:.3f} | {piece.treatment} | {line["AP"]:.1f} | '
                     f'{line["AP"] / dense:.0%} | {line["AP50"]:.1f} | {line["AP75"]:.1f} | {line["after"]:.3f} | '
                     f'{line["seconds"]:.0f} |')
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='of the dense network')
    parser.add_argument('--results', default=str(ROOT / 'work_dirs/repair_detector.jsonl'), help='file of the results')
    parser.add_argument('--flops', type=float, default=0.7, help='share of the multiply-adds that stays (%(default)s)')
    parser.add_argument('--only', nargs='+', choices=CRITERIA, default=CRITERIA)
    parser.add_argument('--treatments', nargs='+', choices=TREATMENTS, default=TREATMENTS)
    computing.add_options(parser)
    args = parser.parse_args()
    path = Path(args.results)
    pieces = [DENSE, *(Piece(criterion, treatment, args.flops) for criterion in args.only
                       for treatment in args.treatments)]
    missing = [piece for piece in pieces if piece not in read_results(path)]
    bench = Bench(args.checkpoint, Computing.of(args)) if missing else None
    for piece in missing:
        assert bench is not None
        result = bench.run(piece)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('a') as file:
            file.write(json.dumps(dict(piece=piece, **result)) + '\n')
    print('\n'.join(table(read_results(path))))


if __name__ == '__main__':
    run(main)
