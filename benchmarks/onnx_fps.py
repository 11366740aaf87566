"""Measure every published structure in onnxruntime, dense, as published and under each divisor; write the docs table.

python benchmarks/onnx_fps.py --out docs/onnx_fps.md
python benchmarks/onnx_fps.py --only mobilenet --threads 4
python benchmarks/onnx_fps.py --only "retinanet|rtmpose" --seconds 120 --out docs/onnx_fps_detection_pose.md

A structure counts where the package of its `_base_` config is installed. Weights are random: latency does not depend on
them. A detector or pose estimator is exported without decoding and NMS, which pruning does not change. FLOPs are
multiply-adds.
"""
import argparse
import datetime
import importlib.util
import math
import os
import re
import shlex
import sys
from pathlib import Path
from typing import List, Tuple

import torch

from mmprune.command_line import run
from mmprune.deploy.divisor_search import DIVISORS, Search, format_results, search
from mmprune.deploy.load import RANDOM, input_shape
from mmprune.deploy.runtimes.onnx_runtime import OnnxRuntime
from mmprune.deploy.runtimes.runtime import in_words
from mmprune.files import write_text
from mmprune.models.from_config import read_config

ROOT = Path(__file__).resolve().parents[1]


def deploy_configs(only: str) -> List[Path]:
    """Return the deploy configs whose package is installed and whose path matches the pattern."""
    found = []
    for path in sorted(ROOT.glob('configs/*/group_fisher/**/*deploy*.py')):
        package = re.search(r"_base_ = '(\w+)::", path.read_text())
        if re.search(only, str(path.relative_to(ROOT))) and package and importlib.util.find_spec(package.group(1)):
            found.append(path)
    return found


def overview(all_results: List[Tuple[str, Search]]) -> str:
    """Return the table of speed-ups over dense, one row a structure."""
    names = [result.name for result in all_results[0][1].results[1:]]
    lines = ['| structure | dense (ms) | ' + ' | '.join(names) + ' | fastest | rounds |',
             '| --- | ---: |' + ' ---: |' * (len(names) + 2)]
    lines += [f'| {name} | {found.results[0].latency_ms:.2f} | '
              + ' | '.join(f'{result.speedup:.2f}' for result in found.results[1:])
              + f' | {found.fastest.name} | {found.results[0].rounds} |' for name, found in all_results]
    return '\n'.join(lines)


def document(all_results: List[Tuple[str, Search]], args: argparse.Namespace) -> str:
    """Return the page: what was run, where and when, the overview, and one table a structure."""
    about = all_results[0][1].about
    parity = max(result.parity for _, found in all_results for result in found.results)
    budget = '' if args.seconds == math.inf else f', or as many as {args.seconds:g} seconds of runs a structure allow'
    parts = ['# Published structures in onnxruntime', f"""\
How fast each published structure runs, by the divisor that its units are padded to. Divisor 1 is the structure as
published. Padding adds zero channels and changes no output; onnxruntime's fast kernels want aligned channels.

- command: `python benchmarks/onnx_fps.py {shlex.join(sys.argv[1:])}`
- date: {datetime.date.today().isoformat()}
- machine: {about['cpu']}, {os.cpu_count()} cores; {in_words(about)}; torch {torch.__version__}
- exported is the whole network without decoding and NMS, which pruning does not change: a classifier ends with class
  scores, a detector with the scores and offsets of all levels, a pose estimator with the scores of all positions
- latency is the median of {args.rounds} runs on one image{budget};
  all models of a table run in turns, one session alive at a time, and the speed-up is the median over the turns of the
  dense model's time by this one's, so that other work on the machine hits both alike
- weights are random; every file was compared with PyTorch (largest relative difference {parity:.0e})""",
             '## Speed-up over dense, by divisor', overview(all_results)]
    parts += [format_results(results, f'## {name}') for name, results in all_results]
    return '\n\n'.join(parts) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', help='markdown file to write (default: print)')
    parser.add_argument('--only', default='', help='regular expression that the path of a config must match')
    parser.add_argument('--divisors', type=int, nargs='+', default=list(DIVISORS), help='what to try')
    parser.add_argument('--threads', type=int, default=1, help='threads of onnxruntime (1)')
    parser.add_argument('--rounds', type=int, default=100, help='timed runs of each model (100)')
    parser.add_argument('--seconds', type=float, default=math.inf,
                        help='time budget of the runs of one structure: heavy ones get fewer rounds, at least three')
    args = parser.parse_args()
    if min(args.threads, args.rounds) < 1:
        parser.error('--threads and --rounds must be 1 or more')
    torch.set_num_threads(args.threads)
    configs = deploy_configs(args.only)
    if not configs:
        parser.error(f'no deploy config of an installed package matches {args.only!r}')
    all_results = []
    for path in configs:
        cfg = read_config(str(path))
        shape = ' x '.join(map(str, input_shape(cfg)))
        name = f'{path.stem.replace("group_fisher_", "").replace("deploy_", "")} ({shape})'
        all_results.append((name, search(cfg, RANDOM, args.divisors, None, OnnxRuntime(args.threads), args.rounds,
                                         args.seconds)))
        print(format_results(all_results[-1][1], name), flush=True)
    if args.out:
        write_text(document(all_results, args), args.out)


if __name__ == '__main__':
    run(main)
