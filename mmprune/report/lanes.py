"""Lanes and colours of the vertical lines of a picture, as in the history of a git repository."""
from typing import Dict, List, Sequence, Tuple

#: First and last row of a line, both included.
Span = Tuple[int, int]
#: A line that goes on for so many rows is a long one.
LONG = 3


def assign_lanes(spans: Sequence[Span]) -> List[int]:
    """Give every span the leftmost lane that is free over all of it, the longest first.

    A span of a few rows also stays right of the long ones beside it, so that residual streams have the left.

    Args:
        spans (list[tuple[int, int]]): First and last row of each, both included.

    Returns:
        list[int]: A lane for each span; no two spans in one lane share a row.
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
    """Give every span a colour, such that those near each other differ, as far as the colours reach.

    Args:
        spans (list[tuple[int, int]]): First and last row of each, both included.
        lanes (list[int]): From :func:`assign_lanes`.
        colours (int): How many colours there are.

    Returns:
        list[int]: A colour for each span, counted from 0.
    """
    chosen: Dict[int, int] = {}
    for number in sorted(range(len(spans)), key=lambda i: (spans[i], lanes[i])):
        used = list(chosen.values())
        near = [chosen[i] for i in chosen
                if abs(lanes[i] - lanes[number]) <= 2 and spans[i][1] >= spans[number][0] - LONG]
        chosen[number] = min(range(colours), key=lambda colour: (near.count(colour), used.count(colour)))
    return [chosen[number] for number in range(len(spans))]
