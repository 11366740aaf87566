"""Which channels go next: the least scores over all units, in blocks, down to their floors."""
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np


class NotFiniteError(RuntimeError):
    """Scores are not finite."""


class PrunedSet(NamedTuple):
    """A set of channels that a prune event removes."""

    unit: str
    channel: int
    score: float


class Pool(NamedTuple):
    """What one unit has to offer.

    Attributes:
        unit (str): Its name.
        scores (ndarray[sets]): By the cost of one set; infinite for those that are gone.
        spare (int): Sets above the unit's floor.
        present (int): Sets at present.
        block (int): Sets that go together: ``present`` becomes, then stays a multiple of it.
    """

    unit: str
    scores: np.ndarray
    spare: int
    present: int
    block: int = 1


def least_important(pools: Sequence[Pool], count: int) -> List[PrunedSet]:
    """Return at least ``count`` sets with the least scores, fewer where there is no more to take.

    Blocks are compared by the mean score of their sets. Within a unit the least scores form the first block, so that
    blocks are taken in their order.

    Raises:
        NotFiniteError: A score is NaN, or all of them are infinite; the message names the unit.
    """
    wrong = [pool.unit for pool in pools if np.isnan(pool.scores).any()]
    if wrong:
        raise NotFiniteError(f'the score of unit {_and_more(wrong)} is NaN')
    blocks: List[Tuple[float, int, int, np.ndarray]] = []
    for number, pool in enumerate(pools):
        blocks += [(float(pool.scores[sets].mean()), number, place, sets)
                   for place, sets in enumerate(_blocks(pool, count))]
    blocks.sort(key=lambda block: block[:3])
    if blocks and not np.isfinite(blocks[0][0]):
        raise NotFiniteError(f'the score of unit {_and_more([pools[block[1]].unit for block in blocks])} is infinite')
    taken: List[PrunedSet] = []
    for score, number, _, sets in blocks:
        if len(taken) >= count or not np.isfinite(score):
            break
        taken += [PrunedSet(pools[number].unit, int(one), float(pools[number].scores[one])) for one in sets]
    return taken


def _blocks(pool: Pool, count: int) -> List[np.ndarray]:
    """Return the blocks of a unit that may go, the least first, no more than ``count`` sets need."""
    order = np.argsort(pool.scores, kind='stable')
    start, size, blocks = 0, pool.present % pool.block or pool.block, []
    while start + size <= pool.spare and start < count:
        blocks.append(order[start:start + size])
        start, size = start + size, pool.block
    return blocks


def _and_more(units: Sequence[str]) -> str:
    different = list(dict.fromkeys(units))
    return repr(different[0]) + (f' and {len(different) - 1} more' if len(different) > 1 else '')
