"""MobileNetV2 pruned in rounds with a repair after each, both halves of the sample of 1,000 images; no training.

MMPRUNE_DATA=... python benchmarks/repair_imagenet_sample.py
MMPRUNE_DATA=... python benchmarks/repair_imagenet_sample.py --criterion GroupFisher --halves even --loss cross_entropy

One half is what the criterion and the repairs see, the other is the test. A round takes a minute or two. After each the
state is kept in the work folder, so that a run which was stopped goes on from there.
"""
import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Union

import computing
import torch
from computing import Computing
from repair_table import ImageNetSample, accuracy
from torch.nn import functional

from mmprune.command_line import run
from mmprune.pruning.pruner import Pruner
from mmprune.pruning.target import PruningTarget

HALVES = ('even', 'odd')
#: Images that are scored at once, a divisor of a batch, so that all count alike: forward and backward of few keep their
#: memory, of many they wait for fresh pages.
BATCH = 5
#: Shares of the multiply-adds that stay, one round each.
SHARES = (0.92, 0.85, 0.77, 0.7, 0.63, 0.56, 0.5)


def named(criterion: str) -> Union[str, Dict[str, str]]:
    """Return the criterion that a name, or two, stand for."""
    widths, _, order = criterion.partition(':')
    return dict(type='OrderedBy', widths=widths, order=order) if order else widths


def rows(sample: ImageNetSample, half: str, shares: List[float], loss: str, criterion: str, work: Path) -> Pruner:
    """Print a row for each share; the images of a half are what criterion and repairs see. Return the last Pruner."""
    split = HALVES.index(half)
    calibration, test = sample.calibration(split, 500), sample.test(split)
    scored_by = [part for images, labels in calibration for part in zip(images.split(BATCH), labels.split(BATCH))]
    dense = sample.computing.placed(sample.model.eval())
    classifier = 'pruned' if sample.mutate_linear else 'whole'
    kept = work / f'{criterion}_{loss}_{half}_{classifier}_classifier.pt'
    if kept.exists():
        pruner, done = torch.load(kept, weights_only=False)  # written by this script
    else:
        pruner = Pruner(copy.deepcopy(dense), torch.zeros(sample.shape), named(criterion), target=dict(flops=0.9),
                        mutate_linear=sample.mutate_linear)
        done: List[float] = []
        print(f'calibrated on {half} images: dense {accuracy(dense, test):.1f}', flush=True)
    for share in shares:
        if share in done:
            continue
        began = time.monotonic()
        if pruner.criterion.needs_data:
            pruner.calibrate(scored_by, functional.cross_entropy if loss == 'cross_entropy' else loss)
        pruner.target = PruningTarget.of(dict(flops=share), pruner.criterion.scope)
        pruner.cut()
        scored = time.monotonic() - began
        repaired = pruner.repair(calibration, dense)
        found = accuracy(pruner.model, test)
        print(f'{half}: {share:g} of the multiply-adds, top-1 {found:.1f}; scores {scored:.0f} s, repair '
              f'{repaired.seconds:.0f} s', flush=True)
        pruner._calibration = None  # the images would be kept with it
        done.append(share)
        torch.save((pruner, done), kept)
    return pruner


def main() -> None:
    """Run both halves, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--halves', nargs='+', choices=HALVES, default=list(HALVES), help='what is calibrated on')
    parser.add_argument('--shares', nargs='+', type=float, default=list(SHARES), help='of the multiply-adds')
    parser.add_argument('--loss', default='outputs', choices=('outputs', 'cross_entropy'))
    parser.add_argument('--criterion', default='MeasuredError', help='NAME, or WIDTHS:ORDER for one that orders the '
                        'channels of each unit by a criterion of its own, such as GroupFisher:LeastSquaresError')
    computing.add_options(parser, amp=False)
    parser.add_argument('--work', type=Path, default=Path(tempfile.gettempdir()) / 'repair_imagenet_sample',
                        help='folder of what is kept')
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for half in args.halves:
        rows(ImageNetSample(Computing.of(args)), half, args.shares, args.loss, args.criterion, args.work)


if __name__ == '__main__':
    run(main)
