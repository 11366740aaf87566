"""Time exported networks beside the first of them in processes of their own; prints json.

python benchmarks/time_files.py '{"type": "OnnxRuntime", "threads": 2}' 1x3x224x224 dense.onnx pruned.onnx
python benchmarks/time_files.py '{"type": "OnnxRuntime"}' 1x3x224x224 dense.onnx pruned.onnx --processes 5

With several processes, medians over them: sessions of one process may all lie well or badly in memory.
"""
import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Dict

import torch

from mmprune.deploy.timing import Candidate, measure
from mmprune.registry import RUNTIMES, build

Found = Dict[str, Dict[str, float]]


def timed_here(args: argparse.Namespace) -> Found:
    """Return file -> median milliseconds, and share of what the first file takes in the same turns."""
    x = torch.randn([int(size) for size in args.shape.split('x')], generator=torch.Generator().manual_seed(0))
    runtime = build(RUNTIMES, json.loads(args.runtime))
    found = measure({str(path): Candidate(runtime, path) for path in args.files}, x, args.rounds, args.seconds).latency
    first = found[str(args.files[0])]
    return {path: dict(median=one.median, share=1 / one.speedup_over(first)) for path, one in found.items()}


def timed_in_processes(args: argparse.Namespace) -> Found:
    """Return medians over fresh processes."""
    command = [sys.executable, '-W', 'ignore', __file__, args.runtime, args.shape, *map(str, args.files),
               '--rounds', str(args.rounds), '--seconds', str(args.seconds / args.processes)]
    runs = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
            for _ in range(args.processes)]
    return {path: {key: statistics.median(run[path][key] for run in runs) for key in runs[0][path]} for path in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runtime', help='type and arguments of a runtime, as json')
    parser.add_argument('shape', help='N x C x H x W of the input, such as 1x3x224x224')
    parser.add_argument('files', nargs='+', type=Path, help='exported networks')
    parser.add_argument('--rounds', type=int, default=100, help='timed runs of each in a process (100)')
    parser.add_argument('--seconds', type=float, default=60.0, help='time budget after three turns of each (60)')
    parser.add_argument('--processes', type=int, default=1, help='fresh processes, one after the other (1)')
    args = parser.parse_args()
    print(json.dumps(timed_here(args) if args.processes == 1 else timed_in_processes(args)))


if __name__ == '__main__':
    main()
