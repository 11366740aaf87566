"""Accuracy without training: every criterion cut, with norms measured again, and repaired, in one round and in rounds.

MMPRUNE_DATA=... python benchmarks/repair_table.py --network mobilenet-v2       # what has no result yet
MMPRUNE_DATA=... python benchmarks/repair_table.py --network resnet18-narrow
MMPRUNE_DATA=... python benchmarks/repair_table.py --only 'L2 *' --minutes 20
python benchmarks/repair_table.py --markdown docs/repair_table.md               # page and picture, without a run
python -m pip install --no-deps --target FOLDER torch-pruning==1.6.1            # optional: for --peer FOLDER

MobileNetV2 has torchvision's ImageNet weights (MMPRUNE_DATA/mobilenet_v2-b0353104.pth); one half of the sample of 1,000
images is what criteria and repairs see, the other is the test, and the other way round. The narrow ResNet-18 has the
dense checkpoint of its config on CIFAR-10, and sees training images that a seed draws. A piece is a criterion, a number
of images, and a half or a seed: one cut from the dense network to each share of its multiply-adds, or one way down in
rounds. Its result is a line of the results file, and it is not run again.
"""
import argparse
import copy
import datetime
import json
import os
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import computing
import criteria_table
import mmcv
import plain_refit
import torch
from computing import Computing
from criteria_table import prune_by_peer, read_results
from repair_page import PEER, SHARES, STEP, page, picture
from torch import Tensor, nn
from torch.nn import functional

from mmprune.command_line import run
from mmprune.files import write_text
from mmprune.pruning.pruner import Pruner
from mmprune.pruning.target import PruningTarget
from mmprune.repair.norms import recalibrate

ROOT = Path(__file__).resolve().parents[1]
CRITERIA: Dict[str, Any] = {**{name: name for name in (
    'GroupFisher', 'Taylor', 'L1', 'L2', 'FPGM', 'BNScale', 'APoZ', 'MeanActivation', 'ThiNet', 'NISP', 'Random',
    'LeastSquaresError', 'MeasuredError')},
    'GroupFisher, LeastSquaresError': dict(type='OrderedBy', widths='GroupFisher')}
#: Share of the network that is not pruned.
DENSE = 1.0
PEERS = {f'{PEER} L2': 'GroupMagnitudeImportance', f'{PEER} Taylor': 'GroupTaylorImportance'}


class Piece(NamedTuple):
    """One line of the results file."""

    network: str
    criterion: str
    images: int
    split: int  #: which half, or which seed
    way: str  #: ``once``, ``rounds`` or ``refit``, which a simpler repair does

    @property
    def key(self) -> str:
        """What is not run twice."""
        return f'{self.network} {self.criterion} {self.way} {self.images} {self.split}'


class ImageNetSample:
    """MobileNetV2 with its real weights.

    Args:
        computing (Computing): Where it is computed.
    """

    name, splits, images, shape = 'mobilenet-v2', (0, 1), (500, 256, 64), (1, 3, 224, 224)
    loss = 'outputs'  #: of criteria that need one: labels would tell of half of the classes only
    mutate_linear = False  #: the classifier has 1,280 inputs and one sample an image: too few to solve it

    def __init__(self, computing: Computing) -> None:
        self.computing = computing
        from torchvision.models import mobilenet_v2  # of the full environment only
        root = Path(os.environ.get('MMPRUNE_DATA', 'data'))
        rows = [line.split() for line in (root / 'imagenet_sample/meta.txt').read_text().splitlines()]
        self.pixels = torch.stack([torch.from_numpy(self._centre(mmcv.imread(
            str(root / 'imagenet_sample' / file), channel_order='rgb'))) for file, _ in rows]).permute(0, 3, 1, 2)
        self.labels = torch.tensor([int(label) for _, label in rows])
        self.model = mobilenet_v2()
        self.model.load_state_dict(torch.load(root / 'mobilenet_v2-b0353104.pth', weights_only=True))
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (
            (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))

    @staticmethod
    def _centre(image: Any) -> Any:
        top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
        return image[top:top + 224, left:left + 224].copy()

    def calibration(self, split: int, images: int) -> List[Tuple[Tensor, Tensor]]:
        """Return the first images of a half, in batches."""
        return self._batches(torch.arange(split, 1000, 2)[:images], 25)

    def test(self, split: int) -> List[Tuple[Tensor, Tensor]]:
        """Return the other half, in batches."""
        return self._batches(torch.arange(1 - split, 1000, 2), 50)

    def _batches(self, order: Tensor, size: int) -> List[Tuple[Tensor, Tensor]]:
        return [self.computing.placed(((self.pixels[some].float() - self.mean) / self.std, self.labels[some]))
                for some in order.split(size)]


class Cifar:
    """The narrow ResNet-18 of the config.

    Args:
        computing (Computing): Where it is computed.
    """

    name, splits, images, shape = 'resnet18-narrow', (0, 1, 2), (1024, 256), criteria_table.SHAPE
    loss = staticmethod(functional.cross_entropy)
    mutate_linear = True

    def __init__(self, computing: Computing) -> None:
        self.bench = criteria_table.Bench(computing)
        self.model = self.bench.model

    def calibration(self, split: int, images: int) -> List[Tuple[Tensor, Tensor]]:
        """Return training images that a seed draws, in batches."""
        order = torch.randperm(len(self.bench.train.labels), generator=torch.Generator().manual_seed(split))[:images]
        return self.bench.batches(self.bench.train, order)

    def test(self, split: int) -> List[Tuple[Tensor, Tensor]]:
        """Return the test images, in batches."""
        return self.bench.batches(self.bench.test, torch.arange(len(self.bench.test.labels)))


NETWORKS: Dict[str, Callable[[Computing], Any]] = {network.name: network for network in (ImageNetSample, Cifar)}


def accuracy(model: nn.Module, batches: Sequence[Tuple[Tensor, Tensor]]) -> float:
    """Return the top-1 accuracy, in per cent."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in batches)
    return 100 * right / sum(len(labels) for _, labels in batches)


class Bench:
    """Runs pieces of one network.

    Args:
        name (str): Key of `NETWORKS`.
        computing (Computing): Where it is computed.
    """

    def __init__(self, name: str, computing: Computing) -> None:
        self.computing, self.network = computing, NETWORKS[name](computing)
        self.dense = computing.placed(self.network.model.eval())
        self.dense_accuracy: Dict[int, float] = {}  # of a split

    def run(self, piece: Piece, shares: Sequence[float]) -> Iterator[Dict[str, Any]]:
        """Prune, measure and repair; one result a share, that of the dense network if it is among them."""
        calibration = self.network.calibration(piece.split, piece.images)
        test = self.network.test(piece.split)
        if DENSE in shares:
            if piece.split not in self.dense_accuracy:
                self.dense_accuracy[piece.split] = accuracy(self.dense, test)
            yield dict(share=DENSE, dense=self.dense_accuracy[piece.split])
            shares = [share for share in shares if share != DENSE]
        if piece.criterion in PEERS:
            yield from self._peer(piece, shares, calibration, test)
        elif piece.way == 'refit':
            yield from self._refit(piece, shares, calibration, test)
        elif piece.way == 'once':
            yield from self._once(piece, shares, calibration, test)
        else:
            yield from self._rounds(piece, shares, calibration, test)

    def _pruner(self, piece: Piece, calibration: Sequence[Tuple[Tensor, Tensor]]) -> Pruner:
        criterion = dict(type='Random', seed=piece.split) if piece.criterion == 'Random' else CRITERIA[piece.criterion]
        pruner = Pruner(copy.deepcopy(self.dense), torch.zeros(self.network.shape), criterion, target=dict(flops=0.9),
                        mutate_linear=self.network.mutate_linear)
        if pruner.criterion.needs_data:
            pruner.calibrate(calibration, self.network.loss)
        return pruner

    def _cut(self, pruner: Pruner, share: float) -> float:
        """Cut to a share of the multiply-adds; return what is left."""
        pruner.target = PruningTarget.of(dict(flops=share), pruner.criterion.scope)
        pruner.cut()
        return float(pruner.mutator.cost['macs'] / pruner.mutator.complexity.cost({})['macs'])

    def _once(self, piece: Piece, shares: Sequence[float], calibration: Any, test: Any) -> Iterator[Dict[str, Any]]:
        began = time.process_time()
        scored = self._pruner(piece, calibration)
        for unit in scored.mutator.units:
            scored.criterion.score(unit)
        seconds = time.process_time() - began
        images = {id(tensor): tensor for batch in calibration for tensor in batch}  # copies share them
        for share in shares:
            pruner = copy.deepcopy(scored, dict(images))
            found = dict(share=share, flops=self._cut(pruner, share), score_s=seconds)
            found['cut'] = accuracy(pruner.model, test)
            state = copy.deepcopy(pruner.model.state_dict())
            recalibrate(pruner.model, [inputs for inputs, _ in calibration])
            found['norms'] = accuracy(pruner.model, test)
            pruner.model.load_state_dict(state)
            began = time.process_time()
            pruner.repair(calibration, self.dense)
            yield dict(found, repair_s=time.process_time() - began, repaired=accuracy(pruner.model, test))

    def _rounds(self, piece: Piece, shares: Sequence[float], calibration: Any, test: Any) -> Iterator[Dict[str, Any]]:
        pruner = self._pruner(piece, calibration)
        for number in range(1, round((1 - min(shares)) / STEP) + 1):
            share = round(1 - number * STEP, 6)
            began = time.process_time()
            left = self._cut(pruner, share)
            pruner.repair(calibration, self.dense)
            if share in shares:
                yield dict(share=share, flops=left, rounds=accuracy(pruner.model, test),
                           round_s=time.process_time() - began)

    def _refit(self, piece: Piece, shares: Sequence[float], calibration: Any, test: Any) -> Iterator[Dict[str, Any]]:
        scored, images = self._pruner(piece, calibration), [inputs for inputs, _ in calibration]
        grams = plain_refit.grams_of(self.dense, images)
        for unit in scored.mutator.units:
            scored.criterion.score(unit)
        shared = {id(tensor): tensor for batch in calibration for tensor in batch}
        for share in shares:
            pruner = copy.deepcopy(scored, dict(shared))
            left = self._cut(pruner, share)
            plain_refit.refit(pruner.mutator, self.dense, grams)
            recalibrate(pruner.model, images)
            yield dict(share=share, flops=left, refit=accuracy(pruner.model, test))

    def _peer(self, piece: Piece, shares: Sequence[float], calibration: Any, test: Any) -> Iterator[Dict[str, Any]]:
        method = criteria_table.Method(piece.criterion, PEERS[piece.criterion], 'global')
        for share in shares:
            model, _ = prune_by_peer(copy.deepcopy(self.dense), method, share, calibration, self.network.shape)
            found = dict(share=share, cut=accuracy(model, test))
            recalibrate(model, [inputs for inputs, _ in calibration])
            yield dict(found, norms=accuracy(model, test))


def pieces(network: Any, peer: bool) -> List[Piece]:
    """Return what is to be run, the most telling first: all criteria with all images, then fewer images."""
    found = [Piece(network.name, criterion, network.images[0], split, way)
             for way in ('once', 'rounds') for split in network.splits for criterion in CRITERIA]
    found += [Piece(network.name, criterion, network.images[0], split, 'once')
              for split in network.splits for criterion in PEERS if peer]
    found += [Piece(network.name, 'GroupFisher', network.images[0], split, 'refit') for split in network.splits]
    return found + [Piece(network.name, 'GroupFisher', images, split, way)
                    for images in network.images[1:] for split in network.splits for way in ('once', 'rounds')]


def run_pieces(args: argparse.Namespace) -> None:
    """Run what has no result yet, until the time is over; a piece that fails says why and is left out."""
    bench, began, failed = Bench(args.network, Computing.of(args)), time.monotonic(), set()
    for piece in pieces(bench.network, args.peer is not None):
        done = {row['share'] for row in read_results(args.results) if row['piece'] == piece.key
                and row.get('mutate_linear', True) == bench.network.mutate_linear}
        shares = [share for share in (DENSE, *args.shares) if share not in done]
        if not set(shares) - {DENSE} or not fnmatch(f'{piece.criterion} {piece.way}', args.only):
            continue
        if args.minutes is not None and time.monotonic() - began > 60 * args.minutes:
            break
        sys.stderr.write(f'{piece.key} ...\n')
        try:
            rows = list(bench.run(piece, shares))
        except (ValueError, RuntimeError) as error:
            failed.add(piece.key)
            sys.stderr.write(f'  failed: {error}\n')
            continue
        facts = dict(piece._asdict(), date=datetime.date.today().isoformat(), torch=torch.__version__,
                     cpu=bench.computing.name, threads=torch.get_num_threads(), cores=os.cpu_count(),
                     mutate_linear=bench.network.mutate_linear)
        with args.results.open('a') as sink:
            sink.writelines(json.dumps(dict(facts, piece=piece.key, **row)) + '\n' for row in rows)
        sys.stderr.write(''.join(f'  {row}\n' for row in rows))
    if failed:
        raise SystemExit(f'{len(failed)} pieces failed')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', choices=sorted(NETWORKS), default='mobilenet-v2')
    parser.add_argument('--only', default='*', help="pattern of criterion and way: 'L2 *', '* rounds'")
    parser.add_argument('--shares', type=float, nargs='+', default=SHARES, choices=SHARES, metavar='SHARE',
                        help='of the multiply-adds, that stay (all five)')
    parser.add_argument('--results', type=Path, default=ROOT / 'work_dirs' / 'repair_table.jsonl')
    parser.add_argument('--minutes', type=float, help='no piece starts after this time')
    parser.add_argument('--markdown', metavar='FILE', help='write the page and its picture, run nothing')
    parser.add_argument('--peer', metavar='FOLDER', help=f'where {PEER} is; its rows are left out without')
    computing.add_options(parser, amp=False)
    args = parser.parse_args()
    if args.markdown:
        results = read_results(args.results)
        picture(results, Path(args.markdown).parent / 'images' / 'repair.png')
        write_text(page(results), args.markdown)
        return
    if args.peer:
        sys.path.insert(0, args.peer)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    run_pieces(args)


if __name__ == '__main__':
    run(main)
