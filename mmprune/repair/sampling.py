"""Which outputs of a layer are looked at: positions drawn at random, again the same for the same seed and call."""
import math
from typing import Any, List, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor

#: Samples for each unknown of a row that are enough, and positions of an image and images at least.
SAMPLES, LEAST_POSITIONS, LEAST_IMAGES = 400, 8, 250


class Sampling(NamedTuple):
    """How much of a layer is looked at."""

    share: float  #: of the positions of an image
    images: int  #: how many images are sampled
    samples: int  #: how many positions these are in all of them, in the mean


def enough_samples(unknowns: int, places: int, images: int, most: int) -> Sampling:
    """Return how much of a layer is sampled: few images as long as these have positions enough, each is a forward.

    Args:
        unknowns (int): Weights of one output channel.
        places (int): Positions of an image, over all calls of the layer.
        images (int): Images in all.
        most (int): Positions of an image at most.
    """
    used = min(images, max(LEAST_IMAGES, math.ceil(SAMPLES * unknowns / max(1, min(places, most)))))
    positions = min(places, enough_positions(unknowns, used, most))
    return Sampling(positions / max(1, places), used, positions * used)


def enough_positions(unknowns: int, images: int, most: int) -> int:
    """Return how many positions of an image are sampled in a layer, over all of its calls.

    Args:
        unknowns (int): Weights of one output channel.
        images (int): Images that are sampled.
        most (int): Positions at most.
    """
    return min(most, max(LEAST_POSITIONS, math.ceil(SAMPLES * unknowns / images)))


def share_of_places(share: float, count: int, several: bool, *entropy: Any) -> Tensor:
    """Draw a share of the positions of one call of a layer.

    Args:
        share (float): Of all positions.
        count (int): Positions of the call's output.
        several (bool): There are several calls: each gets its share in the mean, so that small outputs do not count
            more. Of a single call there is one position at least.
        *entropy (int or str): See :func:`drawn`.

    Returns:
        LongTensor[P]: Ascending.
    """
    generator = _generator(*entropy)
    most, part = divmod(share * count, 1)
    most += generator.random() < part if several else round(part)
    return _some(generator, count, max(int(most), int(not several)))


def drawn(rows: int, size: int, count: int, *entropy: Any) -> Tensor:
    """Draw some of the numbers below a size for each row, without repetition, ascending.

    Args:
        rows (int): Rows, such as images.
        size (int): Numbers to draw from, such as the positions of an output.
        count (int): How many; all of them at most.
        *entropy (int or str): What the draw depends on, such as a seed, the name of a layer and the number of a call.

    Returns:
        LongTensor[rows, min(count, size)]: The numbers.
    """
    generator = _generator(*entropy)
    return torch.stack([_some(generator, size, count) for _ in range(rows)])


def spread(numbers: Sequence[int], share: float) -> List[int]:
    """Return a share of some numbers, one at least, evenly spread."""
    count = min(len(numbers), max(1, math.ceil(share * len(numbers))))
    return [numbers[(2 * place + 1) * len(numbers) // (2 * count)] for place in range(count)]


def _generator(*entropy: Any) -> np.random.Generator:
    words = [word for one in entropy for word in (one.encode() if isinstance(one, str) else (one,))]
    return np.random.default_rng(words)


def _some(generator: np.random.Generator, size: int, count: int) -> Tensor:
    return torch.from_numpy(np.sort(generator.permutation(size)[:count]))
