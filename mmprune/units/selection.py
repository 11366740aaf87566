"""Selects the sets to prune next: the least scores over all units, in blocks, while units keep their least number."""
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np


class NotFiniteError(RuntimeError):
    """A score is NaN, or all scores are infinite."""


class PrunedSet(NamedTuple):
    """A set of channels that a prune event removes."""

    unit: str
    channel: int
    score: float


class Pool(NamedTuple):
    """The scored sets of a unit."""

    unit: str  #: name of the unit
    scores: np.ndarray  #: ``ndarray[sets]``: score of each set over its cost; infinite for removed sets
    spare: int  #: how many sets may be removed
    present: int  #: how many sets are present
    block: int = 1  #: sets that are removed together: ``present`` becomes, then stays a multiple of it

    def blocks(self, count: int) -> List[np.ndarray]:
        """Return the blocks that may be removed, least scores first, up to ``count`` sets or just above."""
        order = np.argsort(self.scores, kind='stable')
        start, size, blocks = 0, self.present % self.block or self.block, []
        while start + size <= self.spare and start < count:
            blocks.append(order[start:start + size])
            start, size = start + size, self.block
        return blocks


def least_important(pools: Sequence[Pool], count: int) -> List[PrunedSet]:
    """Return at least ``count`` sets with the least scores, fewer if too few may be removed.

    Blocks, each of the least remaining scores of its unit, are compared by their mean score.

    Raises:
        NotFiniteError: A score is NaN, or all scores are infinite; the message names the unit.
    """
    wrong = [pool.unit for pool in pools if np.isnan(pool.scores).any()]
    if wrong:
        raise NotFiniteError(f'the score of unit {_and_more(wrong)} is NaN')
    blocks: List[Tuple[float, int, int, np.ndarray]] = []
    for number, pool in enumerate(pools):
        blocks += [(float(pool.scores[sets].mean()), number, place, sets)
                   for place, sets in enumerate(pool.blocks(count))]
    blocks.sort(key=lambda block: block[:3])
    if blocks and not np.isfinite(blocks[0][0]):
        raise NotFiniteError(f'the score of unit {_and_more([pools[block[1]].unit for block in blocks])} is infinite')
    taken: List[PrunedSet] = []
    for score, number, _, sets in blocks:
        if len(taken) >= count or not np.isfinite(score):
            break
        taken += [PrunedSet(pools[number].unit, int(index), float(pools[number].scores[index])) for index in sets]
    return taken


def _and_more(units: Sequence[str]) -> str:
    different = list(dict.fromkeys(units))
    return repr(different[0]) + (f' and {len(different) - 1} more' if len(different) > 1 else '')
