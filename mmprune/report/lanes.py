"""Lanes and colours of the vertical lines of a picture, as in the history of a git repository."""
from typing import Dict, List, Sequence, Tuple

#: First and last row of a line, both included.
Span = Tuple[int, int]
#: From so many rows on a line is long.
LONG = 3


def assign_lanes(spans: Sequence[Span]) -> List[int]:
    """Return a lane for each span: the leftmost that is free over all of its rows, the longest span first.

    A short span also stays right of the long spans beside it, so that residual streams are on the left.
    """
    lanes: Dict[int, int] = {}
    for number in sorted(range(len(spans)), key=lambda i: (spans[i][0] - spans[i][1], spans[i][0])):
        first, last = spans[number]
        beside = [i for i in lanes if spans[i][0] <= last and first <= spans[i][1]]
        taken = {lanes[i] for i in beside}
        left = 0
        if last - first < LONG:
            left = max((lanes[i] + 1 for i in beside if spans[i][1] - spans[i][0] >= LONG), default=0)
        lanes[number] = next(lane for lane in range(left, left + len(taken) + 1) if lane not in taken)
    return [lanes[number] for number in range(len(spans))]


def assign_colours(spans: Sequence[Span], lanes: Sequence[int], colours: int) -> List[int]:
    """Return a colour from 0 to ``colours - 1`` for each span, different from those near it as far as they suffice.

    ``lanes`` are those of :func:`assign_lanes`.
    """
    chosen: Dict[int, int] = {}
    for number in sorted(range(len(spans)), key=lambda i: (spans[i], lanes[i])):
        used = list(chosen.values())
        near = [chosen[i] for i in chosen
                if abs(lanes[i] - lanes[number]) <= 2 and spans[i][1] >= spans[number][0] - LONG]
        chosen[number] = min(range(colours), key=lambda colour: (near.count(colour), used.count(colour)))
    return [chosen[number] for number in range(len(spans))]
