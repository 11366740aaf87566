"""From the error without some of a unit's channels to a price for each: what the next one costs."""
from typing import List, Sequence, Tuple

import numpy as np


def prices(points: Sequence[Tuple[int, float]], count: int) -> np.ndarray:
    """Return what each channel costs, in the order in which they go: ``ndarray[count]``, rising.

    The error is taken for convex: where it rises less than before, or falls, the mean over a longer way counts. The
    price of a channel lies on the line between the slopes at the middles of two ways; the first costs next to nothing,
    as an error that is squared begins flat, and beyond the last point prices go on to rise.

    Args:
        points (list[tuple[int, float]]): How many channels are gone, ascending and above 0, and the error then, above
            that with all of them.
        count (int): Channels.
    """
    hull: List[Tuple[float, float]] = [(0.0, 0.0)]
    for point in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    slopes = [max(_slope(a, b), 0.0) for a, b in zip(hull, hull[1:])]
    middles = [(a[0] + b[0]) / 2 for a, b in zip(hull, hull[1:])]
    at = [0.0, *middles]
    value = [0.0, *slopes]
    rise = (value[-1] - value[-2]) / (at[-1] - at[-2])
    places = np.arange(count) + 0.5
    found = np.interp(places, at, value)
    return np.where(places > at[-1], value[-1] + rise * (places - at[-1]), found)


def _slope(a: Tuple[float, float], b: Tuple[float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])
