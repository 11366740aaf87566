"""The block of channels that a runtime wants: measured on a small network of many widths, never assumed.

Runtimes pad channels to their vector length inside and fall back to slower kernels at other widths, so time is a
staircase in the width. A width that is no multiple of the block costs as much as the next step, or more.
"""
import statistics
import tempfile
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Tuple, Union

import torch
from mmengine.logging import print_log
from torch import nn

from ..arguments import UserError
from ..deploy.runtimes.runtime import Runtime
from ..deploy.timing import Candidate, measure
from ..random_state import seeded

#: The ``align`` that is the measured block.
AUTO = 'auto'
#: What a block may be.
BLOCKS = (1, 2, 4, 8, 16, 32)
#: Widths that are measured: two or more of each block that are no multiples of the next one.
WIDTHS = (8, 13, 16, 17, 18, 20, 24, 26, 28, 32, 37, 40, 42, 44, 48, 51, 54, 56, 60, 64, 80, 96)
SIZE = 28  # height and width of the feature maps
TOLERANCE = 0.05  # share of the least time by which widths of a block may be slower
RUNS = 24  # timed runs of each width
REPEATS = 4  # how often all are timed again at most


def blocks_of_align(align: Union[int, str], measured: int, by_time: bool) -> List[int]:
    """Return the blocks in which channels may go, the wanted one first.

    Where other costs than time decide, a measured block is a wish: on narrow layers it may leave too little to remove,
    and smaller ones follow it. One that the user gives is kept to, and so is the one that times were measured in.

    Args:
        align (int or str): What the user says: a number, 1 by default, or ``auto``.
        measured (int): The block of the runtime.
        by_time (bool): Time decides, so that 1 stands for the runtime's, too.
    """
    if by_time and align in (AUTO, 1):
        return [measured]
    if align == AUTO:
        return [measured, *(block for block in reversed(BLOCKS) if block < measured and measured % block == 0)]
    return [int(align)]


def tell_smaller(wanted: int, taken: int) -> None:
    """Warn that channels go in smaller blocks than a runtime wants."""
    if taken < wanted:
        print_log(f'no structure in blocks of {wanted} channels, as the runtime wants them, meets the target: channels '
                  f'go in blocks of {taken}', logger='current', level=30)


def measured_block(runtime: Runtime, widths: Sequence[int] = WIDTHS, runs: int = RUNS,
                   tolerance: float = TOLERANCE) -> int:
    """Return the least number of channels that widths should be multiples of in a runtime on this machine.

    What other programs add to the time of a few widths makes another staircase, so all are timed again, and the least
    time of each counts, until that changes nothing any more.

    Args:
        runtime (Runtime): Where models will run, with its number of threads.
        widths (list[int]): Widths that are measured.
        runs (int): Timed runs of each.
        tolerance (float): See :func:`block_of`.

    Returns:
        int: One of :data:`BLOCKS`.
    """
    times = width_times(runtime, widths, runs)
    block = block_of(times, tolerance)
    for _ in range(REPEATS):
        before, again = block, width_times(runtime, widths, runs)
        times = {width: min(value, again[width]) for width, value in times.items()}
        block = block_of(times, tolerance)
        if block == before:
            break
    return block


def width_times(runtime: Runtime, widths: Sequence[int] = WIDTHS, runs: int = RUNS) -> Dict[int, float]:
    """Return width -> milliseconds of :func:`small_network` in a runtime, all timed in turns.

    It is the median of the fastest turn: what other programs add is not part of the staircase.

    Args:
        runtime (Runtime): Where it runs.
        widths (list[int]): Widths, in channels.
        runs (int): Timed runs of each.
    """
    x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        candidates = {str(width): Candidate(runtime, runtime.prepare(small_network(width), x,
                                                                     Path(folder) / f'{width}.onnx'))
                      for width in widths}
        timing = measure(candidates, x, runs)
    return {width: min(timing[str(width)].rounds) for width in widths}


def small_network(width: int) -> nn.Module:
    """Return a network of one width: convolutions of 3 x 3, 1 x 1, depthwise and 3 x 3, each with a ReLU; a mean."""

    def conv(channels: int, kernel: int, groups: int = 1) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, width, kernel, padding=kernel // 2, groups=groups), nn.ReLU())

    with seeded([0]):
        return nn.Sequential(conv(3, 3), conv(width, 1), conv(width, 3, width), conv(width, 3),
                             nn.AdaptiveAvgPool2d(1)).eval()


def block_of(times: Mapping[int, float], tolerance: float = TOLERANCE) -> int:
    """Return the smallest block whose multiples are as fast as channels get.

    What a width could take is the lower convex envelope of all times: what a mixture of the best widths takes for as
    many channels. A width is slow by the share that it takes more. A block is good if its own widths, and those of
    each larger block but the last, are slow by no more than the tolerance in the median.

    Args:
        times (dict[int, float]): Width -> milliseconds.
        tolerance (float): Share of time.

    Returns:
        int: One of :data:`BLOCKS`; the largest if none is good.

    Raises:
        UserError: There are fewer than three widths.
    """
    if len(times) < 3:
        raise UserError(f'{len(times)} widths tell no block; measure three or more')
    slow: Dict[int, List[float]] = {block: [] for block in BLOCKS}
    for width, least in envelope(times).items():
        slow[max(block for block in BLOCKS if width % block == 0)].append(times[width] / least - 1)
    best = BLOCKS[-1]
    for block in reversed(BLOCKS[:-1]):
        if slow[block] and statistics.median(slow[block]) > tolerance:
            break
        best = block
    return best


def envelope(times: Mapping[int, float]) -> Dict[int, float]:
    """Return width -> the largest convex function that is nowhere above the times.

    Args:
        times (dict[int, float]): Width -> milliseconds.
    """
    corners: List[Tuple[int, float]] = []
    for width, value in sorted(times.items()):
        while len(corners) > 1 and _is_above(corners[-2], corners[-1], (width, value)):
            corners.pop()
        corners.append((width, value))
    found = {}
    for (left, low), (right, high) in zip(corners, corners[1:]):
        for width in times:
            if left <= width <= right:
                found[width] = low + (high - low) * (width - left) / (right - left)
    return found


def _is_above(left: Tuple[int, float], middle: Tuple[int, float], right: Tuple[int, float]) -> bool:
    """Tell whether the middle point lies on or above the line through the others."""
    return (middle[1] - left[1]) * (right[0] - left[0]) >= (right[1] - left[1]) * (middle[0] - left[0])
