"""Compare all criteria on one trained network, beside torch-pruning's: accuracy left before and after finetuning.

MMPRUNE_DATA=... python benchmarks/criteria_table.py --markdown docs/criteria_table.md
python -m pip install --no-deps --target FOLDER torch-pruning==1.6.1    # optional: torch-pruning's rows
MMPRUNE_DATA=... python benchmarks/criteria_table.py --peer FOLDER --minutes 60 --markdown docs/criteria_table.md
MMPRUNE_DATA=... python benchmarks/criteria_table.py --only 'Taylor*' --seeds 0
python benchmarks/criteria_table.py --minutes 0 --markdown docs/criteria_table.md    # the table of what is there

The narrow ResNet-18 on CIFAR-10; its dense checkpoint must be there (tools/train.py on the config). Every criterion
takes half of the multiply-adds in one cut, then all are trained alike. A piece is one criterion in one scope, one
target and one seed; it takes a minute, its result is a line of the results file, and it is not run again. The seed is
that of the images that criteria look at, of the training images and their crops, and of Random's draw. The best of
the first seed go on to a second target. Processes may share a results file if their --seeds differ.
"""
import argparse
import copy
import datetime
import importlib.util
import json
import os
import statistics
import sys
import textwrap
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import computing
import mmcv
import torch
from computing import Computing
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from remarks import REMARKS, with_remarks
from torch import Tensor, nn
from torch.nn import functional

from mmprune.command_line import run
from mmprune.files import write_text
from mmprune.graph.demo_input import DemoInput
from mmprune.graph.grouping import build_graph
from mmprune.models.from_config import dense_config, read_config
from mmprune.pruning.pruner import Pruner
from mmprune.registry import MODELS
from mmprune.units.complexity import Complexity

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/mmcls/cifar10/resnet18-narrow_cifar10.py'
CHECKPOINT = ROOT / 'work_dirs/resnet18-narrow_cifar10/epoch_6.pth'
#: Share of the multiply-adds that stays: for all, and for the best of ours and of the peer.
TARGET, SECOND_TARGET, BEST, BEST_OF_PEER = 0.5, 0.3, 5, 2
SEEDS = (0, 1, 2)
#: Images of a calibration, of an epoch of finetuning, in a batch; Oracle passes over two batches for each channel.
CALIBRATION, FINETUNE, BATCH, EPOCHS, ORACLE_BATCHES = 1024, 10000, 128, 2, 2
SHAPE = (1, 3, 32, 32)
PEER = 'torch-pruning'
COMMAND = 'MMPRUNE_DATA=... python benchmarks/criteria_table.py --peer FOLDER --markdown docs/criteria_table.md'
#: Halvings of the interval in which the peer's pruning ratio lies.
BISECTIONS = 12


class Method(NamedTuple):
    """A criterion or the peer's importance, where it takes channels from, and its row's name."""

    name: str
    criterion: Any
    scope: Optional[str] = None

    @property
    def key(self) -> str:
        """Name in the results file: without a scope, that of the criterion's paper."""
        return f'{self.name} {self.scope or "own"}'


OURS = [
    *(Method(name, name) for name in ('L1', 'L2', 'FPGM', 'BNScale', 'APoZ', 'ThiNet', 'Taylor', 'MeanActivation',
                                      'NISP', 'DCP', 'Random', 'GroupFisher', 'Oracle')),
    Method('FPGM-cosine', dict(type='FPGM', distance='cosine')),
    Method('Taylor-weights', dict(type='Taylor', source='weights')),
    Method('L2 (normalize=mean)', dict(type='L2', normalize='mean'), 'global'),
    Method('FPGM (normalize=mean)', dict(type='FPGM', normalize='mean'), 'global'),
    Method('BNScale (mean, normalize=mean)', dict(type='BNScale', combine='mean', normalize='mean'), 'global'),
    Method('Taylor', 'Taylor', 'layer'), Method('BNScale', 'BNScale', 'layer'),
    Method('BNScale (mean)', dict(type='BNScale', combine='mean'), 'layer')]
#: What the peer scores, cut as ours are.
SCORED_ALIKE = [Method(f'WholeGroup, {of}', dict(type='WholeGroup', source=of), scope)
                for scope in ('layer', 'global') for of in ('squares', 'distances', 'taylor')]
THEIRS = [Method(f'{PEER} {name}', importance, scope) for scope in ('layer', 'global') for name, importance in (
    ('L2', 'GroupMagnitudeImportance'), ('FPGM', 'FPGMImportance'), ('Taylor', 'GroupTaylorImportance'),
    ('BNScale', 'BNScaleImportance'))]
DENSE = Method('not pruned', None, 'dense')


class Piece(NamedTuple):
    """One line of the results file."""

    method: Method
    target: float
    seed: int

    @property
    def key(self) -> Tuple[str, float, int]:
        """What is not run twice."""
        return self.method.key, self.target, self.seed


class Images(NamedTuple):
    """Decoded images ``ByteTensor[N, 3, 32, 32]`` in RGB, and their classes."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def read(cls, folder: Path) -> 'Images':
        """Decode all images of a folder of classes."""
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
        files = [(path, number) for number, name in enumerate(names) for path in sorted((folder / name).glob('*.jpg'))]
        if not files:
            raise FileNotFoundError(f'{folder} has no images <class>/*.jpg: set MMPRUNE_DATA')
        pixels = torch.stack([torch.from_numpy(mmcv.imread(str(path), channel_order='rgb')) for path, _ in files])
        return cls(pixels.permute(0, 3, 1, 2).contiguous(), torch.tensor([number for _, number in files]))


class Bench:
    """The trained network, the data and the training that all share.

    Args:
        computing (Computing): Where it is computed.
    """

    def __init__(self, computing: Computing) -> None:
        self.computing = computing
        init_default_scope('mmcls')
        cfg: Config = read_config(str(CONFIG))
        self.model: nn.Module = MODELS.build(dense_config(cfg)[0])
        load_checkpoint(self.model, str(CHECKPOINT), map_location='cpu')
        self.mean, self.std = (torch.tensor(cfg.data_preprocessor[name]).view(3, 1, 1) for name in ('mean', 'std'))
        root = Path(cfg.data_root)
        self.train, self.test = Images.read(root / 'train'), Images.read(root / 'test')
        self.dense_cost = cost(self.model)
        self.model.to(computing.device)

    def batches(self, images: Images, order: Tensor) -> List[Tuple[Tensor, Tensor]]:
        """Return the images of an order, normalised, in batches."""
        return [self.computing.placed(((images.pixels[some].float() - self.mean) / self.std, images.labels[some]))
                for some in order.split(BATCH)]

    def accuracy(self, model: nn.Module) -> float:
        """Return the top-1 accuracy on the test images, in per cent."""
        model.eval()
        with torch.no_grad(), self.computing.autocast():
            right = sum(int((model(inputs).argmax(1) == labels).sum())
                        for some in torch.arange(len(self.test.labels)).split(2000)
                        for inputs, labels in self.batches(self.test, some))
        return 100 * right / len(self.test.labels)

    def finetune(self, model: nn.Module, order: Tensor, generator: torch.Generator, epochs: int = EPOCHS) -> None:
        """Train on the images of an order, cropped and flipped at random, with a learning rate that falls to zero."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4, nesterov=True)
        steps = epochs * len(order.split(BATCH))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        model.train()
        for _ in range(epochs):
            shuffled = order[torch.randperm(len(order), generator=generator)]
            pixels = augmented(self.train.pixels[shuffled], generator)
            for inputs, labels in self.batches(Images(pixels, self.train.labels[shuffled]), torch.arange(len(order))):
                with self.computing.autocast():
                    loss = functional.cross_entropy(model(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    def run(self, piece: Piece) -> Dict[str, Any]:
        """Prune, measure, train and measure."""
        generator = torch.Generator().manual_seed(piece.seed)
        order = torch.randperm(len(self.train.labels), generator=generator)
        calibration = self.batches(self.train, order[:CALIBRATION])
        torch.manual_seed(piece.seed)
        model = copy.deepcopy(self.model).eval()
        method, scope, score_s = piece.method, piece.method.scope, 0.0
        if method.name.startswith(PEER):
            model, score_s = prune_by_peer(model, method, piece.target, calibration)
        elif method != DENSE:
            scope, score_s = prune(model, piece, calibration)
        now = cost(model)
        widths = {name: layer.weight.shape[0] for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
        model = self.computing.placed(model)
        pruned = self.accuracy(model)
        began = time.perf_counter()
        self.finetune(model, order[CALIBRATION:CALIBRATION + FINETUNE], generator)
        finetune_s = time.perf_counter() - began
        return dict(
            scope=scope, pruned=pruned, finetuned=self.accuracy(model), flops=now['macs'] / self.dense_cost['macs'],
            params=now['params'] / self.dense_cost['params'], score_s=score_s, finetune_s=finetune_s, widths=widths,
            date=datetime.date.today().isoformat(), torch=torch.__version__, threads=torch.get_num_threads(),
            load=os.getloadavg()[0], cpu=self.computing.name, cores=os.cpu_count())


def cost(model: nn.Module, shape: Sequence[int] = SHAPE) -> Dict[str, int]:
    """Return the multiply-adds and parameters of a model."""
    demo_input = DemoInput(shape)
    return Complexity.of(model, build_graph(model, demo_input)).cost({})


def augmented(pixels: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Return the images cropped behind a border of zeros and flipped, each by its own draw."""
    count, _, height, width = pixels.shape
    top, left = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows, columns = top + torch.arange(height), torch.arange(width).expand(count, -1)
    columns = left + torch.where(flip, width - 1 - columns, columns)
    padded = functional.pad(pixels, (padding,) * 4).permute(0, 2, 3, 1)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def prune(model: nn.Module, piece: Piece, calibration: Sequence[Tuple[Tensor, Tensor]]) -> Tuple[str, float]:
    """Prune a model by a criterion of ours; return the scope and the seconds of scoring."""
    method = piece.method
    criterion = dict(type='Random', seed=piece.seed) if method.name == 'Random' else method.criterion
    target = dict(flops=piece.target, **dict(scope=method.scope) if method.scope else {})
    pruner = Pruner(model, torch.zeros(SHAPE), criterion, target=target)
    began = time.perf_counter()
    if pruner.criterion.needs_data:
        pruner.calibrate(calibration, functional.cross_entropy, ORACLE_BATCHES if method.name == 'Oracle' else None)
    for unit in pruner.mutator.units:
        pruner.criterion.score(unit)
    score_s = time.perf_counter() - began
    pruner.cut()
    assert pruner.target is not None
    return pruner.target.scope, score_s


def prune_by_peer(model: nn.Module, method: Method, target: float, calibration: Sequence[Tuple[Tensor, Tensor]],
                  shape: Sequence[int] = SHAPE) -> Tuple[nn.Module, float]:
    """Prune by torch-pruning with the ratio that leaves the target; return the model and the seconds of scoring."""
    import torch_pruning
    importance = getattr(torch_pruning.importance, method.criterion)()
    last = max(place for place, module in enumerate(model.modules()) if isinstance(module, nn.Linear))

    def pruner_of(ratio: float) -> Any:
        one = copy.deepcopy(model)
        for parameter, gradient in zip(one.parameters(), gradients):
            parameter.grad = gradient  # a copy has none
        return torch_pruning.pruner.BasePruner(
            one, next(one.parameters()).new_zeros(shape), importance=importance, pruning_ratio=ratio,
            global_pruning=method.scope == 'global', ignored_layers=[[*one.modules()][last]])

    began = time.perf_counter()
    if 'Taylor' in method.name:
        for inputs, labels in calibration:
            functional.cross_entropy(model(inputs), labels).backward()
    score_s = time.perf_counter() - began
    gradients = [parameter.grad for parameter in model.parameters()]
    first = pruner_of(0.5)
    began = time.perf_counter()
    for group in first.DG.get_all_groups(first.ignored_layers, first.root_module_types):
        first.estimate_importance(group)
    score_s += time.perf_counter() - began
    found = bisected(pruner_of, target * cost(model, shape)['macs'], shape)
    for parameter in found.parameters():
        parameter.grad = None
    return found, score_s


def bisected(pruner_of: Callable[[float], Any], target: float, shape: Sequence[int]) -> nn.Module:
    """Return the largest network that torch-pruning leaves within a number of multiply-adds, by its pruning ratio."""
    found, low, high = None, 0.0, 1.0
    for _ in range(BISECTIONS):
        pruner = pruner_of((low + high) / 2)
        pruner.step()
        left = cost(pruner.model, shape)['macs']
        if left > target:
            low = (low + high) / 2
            continue
        high = (low + high) / 2
        if found is None or left > found[0]:
            found = left, pruner.model
    if found is None:
        raise RuntimeError(f'no pruning ratio leaves {target:.0f} multiply-adds')
    return found[1]


def read_results(path: Path) -> List[Dict[str, Any]]:
    """Return the lines of the results file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key_of(result: Dict[str, Any]) -> Tuple[str, float, int]:
    return result['method'], result['target'], result['seed']


def columns(results: Sequence[Dict[str, Any]], method: Method, target: float) -> Dict[str, List[float]]:
    """Return column -> values of the seeds that are there."""
    rows = [result for result in results if (result['method'], result['target']) == (method.key, target)]
    return {name: [row[name] for row in rows] for name in ('pruned', 'finetuned', 'flops', 'params', 'score_s')}


def ranked(methods: Sequence[Method], results: Sequence[Dict[str, Any]], target: float) -> List[Method]:
    """Return the methods that have results, the highest mean accuracy after finetuning first."""
    found = [(method, columns(results, method, target)['finetuned']) for method in methods]
    return [method for method, values in sorted((pair for pair in found if pair[1]),
                                                key=lambda pair: -statistics.mean(pair[1]))]


def all_pieces(methods: Sequence[Method], results: Sequence[Dict[str, Any]]) -> List[Piece]:
    """Return all pieces, a seed after the other; those of the second target once the first seed says which are best."""
    first = [Piece(method, TARGET, SEEDS[0]) for method in [DENSE, *methods]
             if method.name != 'Oracle']  # it takes minutes
    chosen: List[Method] = []
    if not {piece.key for piece in first} - {key_of(result) for result in results}:
        order = [method for method in ranked(methods, [one for one in results if one['seed'] == SEEDS[0]], TARGET)
                 if method.name != 'Oracle']
        chosen = [one for group, count in ((OURS, BEST), (THEIRS, BEST_OF_PEER))
                  for one in [method for method in order if method in group][:count]]
    return [Piece(method, target, seed) for seed in SEEDS for target, several in (
        (TARGET, [DENSE, *methods]), (SECOND_TARGET, chosen)) for method in several]


def run_pieces(args: argparse.Namespace, methods: Sequence[Method]) -> None:
    """Run what has no result yet, until the time is over; a piece that fails says why and is left out."""
    path, bench, began = Path(args.results), None, time.monotonic()
    failed: Set[Tuple[str, float, int]] = set()
    while args.minutes is None or time.monotonic() - began < 60 * args.minutes:
        results = read_results(path)
        done = {key_of(result) for result in results} | failed
        piece = next((one for one in all_pieces(methods, results) if one.key not in done and one.seed in args.seeds
                      and any(fnmatch(one.method.key, pattern) for pattern in args.only)), None)
        if piece is None:
            return
        bench = bench or Bench(Computing.of(args))
        sys.stderr.write(f'{piece.key} ...\n')
        try:
            result = bench.run(piece)
        except (ImportError, ValueError, RuntimeError) as error:
            sys.stderr.write(f'  failed: {error}\n')
            failed.add(piece.key)
            continue
        sys.stderr.write(f'  {result["flops"]:.3f} FLOPs: {result["pruned"]:.2f}, {result["finetuned"]:.2f}\n')
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('a') as file:
            file.write(json.dumps(dict(zip(('method', 'target', 'seed'), piece.key), **result)) + '\n')


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean, with the least and the most where they differ."""
    least, most = (f'{bound(values):.{digits}f}' for bound in (min, max))
    mean = f'{statistics.mean(values):.{digits}f}'
    return mean if least == most else f'{mean} ({least}-{most})'


def table(methods: Sequence[Method], results: Sequence[Dict[str, Any]], target: float) -> List[str]:
    """Return the lines of the table of a target."""
    lines = [f'## {target:.0%} of the multiply-adds', '',
             '| criterion | takes from | seeds | FLOPs | parameters | after the cut | finetuned | score (s) |',
             '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |']
    for method in ranked(methods, results, target):
        cells = columns(results, method, target)
        scope = next(result['scope'] for result in results if result['method'] == method.key)
        lines.append(f'| {method.name} | {"-" if method == DENSE else scope} | {len(cells["flops"])} | '
                     f'{spread(cells["flops"], 3)} | {spread(cells["params"], 3)} | {spread(cells["pruned"])} | '
                     f'{spread(cells["finetuned"])} | {statistics.mean(cells["score_s"]):.2f} |')
    return [*lines, '']


def markdown(methods: Sequence[Method], results: Sequence[Dict[str, Any]]) -> str:
    """Return the page: what was run, a table for each target, and what is missing."""
    date, cpu, cores, version, threads = (', '.join(sorted({str(result[name]) for result in results}))
                                          for name in ('date', 'cpu', 'cores', 'torch', 'threads'))
    loads = [result['load'] for result in results]
    lines = [
        '# Criteria on one network', '',
        f'`{COMMAND}`, {date}; {cpu}, {cores} cores shared with others (load {min(loads):.1f}-{max(loads):.1f}), torch '
        f'{version}, threads: {threads}.', '',
        f'The narrow ResNet-18 on CIFAR-10 (`{CONFIG.relative_to(ROOT)}`), all of it cut at once to a share of its '
        f'multiply-adds, then trained alike: {EPOCHS} epochs of {FINETUNE} images, batch {BATCH}, SGD from 0.02. '
        f'Criteria that look at data look at {CALIBRATION} training images (Oracle at {ORACLE_BATCHES * BATCH}).', '',
        '- *FLOPs*, *parameters*: what stays of the dense ones; *after the cut*, *finetuned*: top-1 on the 10,000 test '
        'images in per cent. Means over the seeds, with the least and the most where they differ.',
        '- *layer* takes the same share of every unit, *global* the least scores of all units. A row without a note is '
        "the criterion as it is by default, with its paper's scope.",
        f'- {PEER} 1.6.1 cuts by its own pruner, its importances as they are by default; its ratio by bisection.',
        f'- *WholeGroup*: scored as {PEER} scores, and cut as ours are: its L2 is '
        '*squares*, its FPGM *distances*.', '',
        *table([DENSE, *methods], results, TARGET)]
    if any(result['target'] == SECOND_TARGET for result in results):
        lines += table(methods, results, SECOND_TARGET)
        lines += [f'By the first seed the best {BEST} of ours but for Oracle, and {BEST_OF_PEER} of {PEER}.', '']
    lines += not_run(methods, results)
    return '\n'.join(line if line.startswith('|') else textwrap.fill(
        line, 120, subsequent_indent='  ' * line.startswith('- '), break_on_hyphens=False) for line in lines)


def not_run(methods: Sequence[Method], results: Sequence[Dict[str, Any]]) -> List[str]:
    """Return a line for each set of seeds that some rows lack."""
    done = {key_of(result) for result in results}
    lacking: Dict[Tuple[str, float], List[int]] = {}
    for piece in all_pieces(methods, results):
        if piece.key not in done:
            lacking.setdefault(piece.key[:2], []).append(piece.seed)
    rows: Dict[str, List[str]] = {}
    for (name, target), seeds in lacking.items():
        rows.setdefault(f'{target:.0%}, seed {" and ".join(map(str, seeds))}', []).append(name.replace(' own', ''))
    return [f'- not run at {at}: {", ".join(names)}' for at, names in rows.items()] + [''] * bool(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--results', default=str(ROOT / 'work_dirs/criteria_table.jsonl'), help='file of the results')
    parser.add_argument('--only', nargs='+', default=['*'], help="patterns of rows with their scope: 'Taylor* layer'")
    parser.add_argument('--seeds', nargs='+', type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument('--minutes', type=float, help='no piece starts after this time')
    parser.add_argument('--markdown', metavar='FILE', help=f'write the tables; what is below {REMARKS.strip()!r} stays')
    parser.add_argument('--peer', metavar='FOLDER', help='where torch-pruning is, if it is not installed')
    computing.add_options(parser)
    args = parser.parse_args()
    if args.peer:
        sys.path.insert(0, args.peer)
    results = read_results(Path(args.results))
    has_peer = importlib.util.find_spec('torch_pruning') is not None
    ours = [*OURS, *SCORED_ALIKE]
    methods = [*ours, *[one for one in THEIRS if has_peer or columns(results, one, TARGET)['flops']]]
    if not has_peer:
        sys.stderr.write(f'{PEER} is not there, so are its rows: python -m pip install --no-deps --target FOLDER '
                         'torch-pruning==1.6.1, then --peer FOLDER\n')
    run_pieces(args, ours if not has_peer else methods)
    results = read_results(Path(args.results))
    if args.markdown and results:
        write_text(with_remarks(markdown(methods, results), Path(args.markdown)), args.markdown)


if __name__ == '__main__':
    run(main)
