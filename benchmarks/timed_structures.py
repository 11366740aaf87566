"""What structures of a network take beside the dense one, in fresh processes: what benchmarks of times share."""
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

import numpy as np
import torch

from mmprune.latency.meter import Meter
from mmprune.latency.pruned_copy import PrunedCopy

PROCESSES = 5
TIME_FILES = Path(__file__).with_name('time_files.py')


class Measured(NamedTuple):
    """What one structure takes: share of the dense network's time in the same turns, and milliseconds of both."""

    share: float
    ms: float
    dense_ms: float


def counts_of(masks: Mapping[str, np.ndarray]) -> Dict[str, int]:
    """Return unit name -> sets that stay."""
    return {name: int(mask.sum()) for name, mask in masks.items()}


def padded(masks: Mapping[str, np.ndarray], block: int) -> Dict[str, int]:
    """Return unit name -> sets, rounded up to whole blocks as a deploy divisor does, never beyond the dense width."""
    return {name: min(len(mask), -(-int(mask.sum()) // block) * block) for name, mask in masks.items()}


def times(meter: Meter, runtime: Mapping[str, Any], structures: Sequence[Mapping[str, int]],
          command: Sequence[str] = (), processes: int = PROCESSES) -> List[Measured]:
    """Return what each structure takes, medians over fresh processes.

    Args:
        meter (Meter): Of the network.
        runtime (dict): Type and arguments of its runtime.
        structures (list[dict]): Unit name -> sets.
        command (list[str]): What the timing process is run by, such as ``['taskset', '-c', '1']``.
        processes (int): How many.
    """
    copy = PrunedCopy(meter.mutator)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        paths = [str(meter.runtime.prepare(copy.cut_to(counts), meter.x, Path(folder) / f'{number}.onnx'))
                 for number, counts in enumerate([copy.dense(), *structures])]
        line = [*command, sys.executable, '-W', 'ignore', str(TIME_FILES), json.dumps(runtime),
                'x'.join(map(str, meter.input_shape)), *paths, '--processes', str(processes)]
        out = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(out.splitlines()[-1])
    return [Measured(found[path]['share'], found[path]['median'], found[paths[0]]['median']) for path in paths[1:]]
