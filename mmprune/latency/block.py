"""The block of a runtime: how many channels it computes together, measured."""
import copy
import tempfile
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch
from torch import nn

from ..deploy.runtimes.runtime import Runtime

#: What is tried.
BLOCKS = (1, 2, 4, 8, 16, 32)
#: Widths that are multiples of each block and of no larger one, near 100 channels, where one channel is one per cent.
WIDTHS = {1: (93, 99, 107), 2: (94, 98, 106), 4: (92, 100, 108), 8: (88, 104), 16: (80, 112), 32: (96, )}
#: A block is taken where its time per channel is within this of the best one's.
NEAR = 0.05
SIZE, SECONDS, LEAST_RUNS, TURNS = 28, 0.02, 5, 3


class _Chain(nn.Module):
    """Pointwise, depthwise, pointwise, 3 x 3: the layers of most networks, of one width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(), nn.Conv2d(width, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def measured_block(runtime: Runtime) -> int:
    """Return the least number of channels of which widths should be multiples in a runtime, on this machine.

    Nets of widths around 100 that are multiples of 1, 2, 4, ... are timed; the least block wins whose time for the
    multiply-adds is within a twentieth of the best. One thread runs: how work is shared out to threads prefers yet
    larger multiples, but is no reason to keep to them.
    """
    runtime = copy.copy(runtime)
    runtime.threads = 1
    x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        sources = {width: runtime.prepare(_Chain(width).eval(), x, Path(folder) / f'{width}.onnx')
                   for widths in WIDTHS.values() for width in widths}
        times: Dict[int, List[float]] = {width: [] for width in sources}
        for _ in range(TURNS):
            for width, source in sources.items():
                times[width].append(runtime.median_ms(source, x, SECONDS, LEAST_RUNS))
    return block_of({width: float(np.min(each)) for width, each in times.items()})


def block_of(milliseconds: Dict[int, float]) -> int:
    """Return the block for the time of each of :data:`WIDTHS`, ``width -> milliseconds``."""
    cost = {block: float(np.mean([milliseconds[width] / _multiply_adds(width) for width in widths]))
            for block, widths in WIDTHS.items()}
    best = min(cost.values())
    return next(block for block in BLOCKS if cost[block] <= (1 + NEAR) * best)


def _multiply_adds(width: int) -> float:
    """Of one position of the chain."""
    return 11 * width ** 2 + 12 * width
