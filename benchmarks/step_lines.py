"""Trace one pruning train_step: which files of mmprune it enters, and how many lines of each of them run.

python benchmarks/step_lines.py
python benchmarks/step_lines.py --lines --json step_lines.json

What somebody has to read to follow the method, in numbers. A small classifier (convolutions, norms, a residual sum, a
depthwise convolution, a linear layer) is pruned by `GroupFisherAlgorithm` every iteration; the second step, in which a
channel goes, is traced: forward, backward with the taps, the optimizer, scores, the cut. A line counts once, however
often it runs. Whichever mmprune can be imported is traced, and only `mmprune.registry` is asked for its parts, so that
a checkout from before the files were moved into folders can be compared: PYTHONPATH=BEFORE.
"""
import argparse
import json
import sys
import threading
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Set

import torch
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import mmprune
from mmprune.registry import MODELS, build

PACKAGE = Path(mmprune.__file__).resolve().parent
#: Where the method stands; the last line is where it stood before there were folders (every unit in one file).
METHOD = ('group_fisher/ops.py', 'group_fisher/taps.py', 'group_fisher/unit.py', 'group_fisher/mutator.py',
          'group_fisher/algorithm.py', 'units/surgery.py', 'units/layer.py',
          'ops.py', 'taps.py', 'unit.py', 'group_fisher_mutator.py', 'algorithm.py', 'surgery.py')
SIZE, CLASSES = 16, 10


class Net(nn.Module):
    """A stem, a basic block, an inverted bottleneck, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv1, self.bn1 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.expand, self.bn3 = nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.depthwise, self.bn4 = nn.Conv2d(32, 32, 3, 2, padding=1, groups=32, bias=False), nn.BatchNorm2d(32)
        self.project, self.bn5 = nn.Conv2d(32, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        x = F.relu6(self.bn4(self.depthwise(F.relu6(self.bn3(self.expand(x))))))
        return self.fc(self.bn5(self.project(x)).mean((2, 3)))


class Classifier(BaseModel):
    """The network as OpenMMLab's are called."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Return the loss or the scores of the classes."""
        out = self.net(inputs)
        return dict(loss=F.cross_entropy(out, data_samples)) if mode == 'loss' else out


class FileLines(NamedTuple):
    """One file: its name in the package, how many lines it has, and the numbers of those that ran."""

    file: str
    total: int
    ran: List[int]


class Lines:
    """A trace function that notes every line of the package that runs."""

    def __init__(self) -> None:
        self.ran: Dict[str, Set[int]] = {}

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Note a line of the package, and leave the frames of other code alone."""
        path = frame.f_code.co_filename
        if not path.startswith(f'{PACKAGE}/'):
            return None
        numbers = self.ran.setdefault(path, set())
        if event == 'line':
            numbers.add(frame.f_lineno)
        return self

    def files(self) -> List[FileLines]:
        """Return the files that were entered, those with most lines first."""
        files = [FileLines(str(Path(path).relative_to(PACKAGE)), len(Path(path).read_text().splitlines()),
                           sorted(numbers)) for path, numbers in self.ran.items()]
        return sorted(files, key=lambda one: (-len(one.ran), one.file))


@contextmanager
def traced(lines: Lines) -> Iterator[None]:
    """Trace the block; autograd stays in the thread that calls backward, where the taps' backward is seen, too."""
    with torch.autograd.set_multithreading_enabled(False):
        threading.settrace(lines)
        sys.settrace(lines)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]


def trace_step() -> List[FileLines]:
    """Take two pruning steps and return what ran in the second."""
    torch.manual_seed(0)
    algorithm = build(MODELS, dict(
        type='GroupFisherAlgorithm', architecture=Classifier(), interval=1,
        mutator=dict(type='GroupFisherChannelMutator',
                     channel_unit_cfg=dict(type='GroupFisherChannelUnit', normalization_type='act', mutate_linear=True),
                     demo_input=dict(type='DemoInput', input_shape=(1, 3, SIZE, SIZE)))))
    optimizer = build_optim_wrapper(algorithm, dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)))
    data = dict(inputs=torch.randn(8, 3, SIZE, SIZE), data_samples=torch.randint(CLASSES, (8,)))
    algorithm.train()
    algorithm.train_step(data, optimizer)
    before, lines = sum(algorithm.mutator.structure.values()), Lines()
    with traced(lines):
        algorithm.train_step(data, optimizer)
    if sum(algorithm.mutator.structure.values()) != before - 1:
        raise RuntimeError('the traced step did not prune one channel')
    return lines.files()


def ranges(numbers: Sequence[int]) -> str:
    """Return numbers in ascending order as ``1-3, 7``."""
    parts: List[List[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ', '.join(str(first) if first == last else f'{first}-{last}' for first, last in parts)


def totals(files: Sequence[FileLines]) -> Dict[str, List[int]]:
    """Return name -> lines of the files and lines that ran: of the method, of all other files, of both."""
    method = [one for one in files if one.file in METHOD]
    other = [one for one in files if one.file not in METHOD]
    return {name: [len(several), sum(one.total for one in several), sum(len(one.ran) for one in several)]
            for name, several in ((f'the method: {len(method)} files', method),
                                  (f'other: {len(other)} files', other), (f'all: {len(files)} files', files))}


def table(files: Sequence[FileLines], with_lines: bool) -> str:
    """Return a markdown table; the files of the method are bold."""
    rows = [['file', 'lines', 'lines that ran', 'which'], ['---', '---:', '---:', '---']]
    rows += [[f'**{one.file}**' if one.file in METHOD else one.file, str(one.total), str(len(one.ran)),
              ranges(one.ran)] for one in files]
    rows += [[name, *map(str, numbers[1:]), ''] for name, numbers in totals(files).items()]
    return '\n'.join(f'| {" | ".join(row if with_lines else row[:3])} |' for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--lines', action='store_true', help='name the lines that ran, too')
    parser.add_argument('--json', metavar='FILE', help='write files, lines and totals to a json file; - for stdout')
    args = parser.parse_args()
    with redirect_stdout(sys.stderr):  # what the step logs
        files = trace_step()
    if args.json != '-':
        print(table(files, args.lines))
    if args.json:
        text = json.dumps(dict(files=[one._asdict() for one in files], totals=totals(files)), indent=2) + '\n'
        sys.stdout.write(text) if args.json == '-' else Path(args.json).write_text(text)


if __name__ == '__main__':
    main()
