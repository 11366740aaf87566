"""Time exported networks beside the first of them in a process of its own; prints json.

python benchmarks/time_files.py '{"type": "OnnxRuntime", "threads": 2}' 1x3x224x224 dense.onnx pruned.onnx
"""
import argparse
import json
from pathlib import Path

import torch

from mmprune.deploy.timing import Candidate, measure
from mmprune.registry import RUNTIMES, build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runtime', type=json.loads, help='type and arguments of a runtime, as json')
    parser.add_argument('shape', help='N x C x H x W of the input, such as 1x3x224x224')
    parser.add_argument('files', nargs='+', type=Path, help='exported networks')
    parser.add_argument('--rounds', type=int, default=100, help='timed runs of each (100)')
    parser.add_argument('--seconds', type=float, default=60.0, help='time budget, after three turns (60)')
    args = parser.parse_args()
    x = torch.randn([int(size) for size in args.shape.split('x')], generator=torch.Generator().manual_seed(0))
    runtime = build(RUNTIMES, args.runtime)
    found = measure({str(path): Candidate(runtime, path) for path in args.files}, x, args.rounds, args.seconds).latency
    first = found[str(args.files[0])]
    print(json.dumps({path: dict(median=one.median, share=1 / one.speedup_over(first)) for path, one in found.items()}))


if __name__ == '__main__':
    main()
