"""Which channels go next: by hand, and against brute force."""
import itertools
import random

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from toy_nets import ToyClassifier, mutator_cfg

from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.units.selection import NotFiniteError, Pool, PrunedSet, least_important

INF = float('inf')


def pool(name, scores, floor=1, block=1):
    scores = np.array(scores, dtype=float)
    present = int(np.isfinite(scores).sum())
    return Pool(name, scores, present - floor, present, block)


def test_by_hand():
    pools = [pool('a', [5, 1, 3, INF]), pool('b', [2, 4])]
    assert least_important(pools, 1) == [('a', 1, 1.0)]
    assert least_important(pools, 3) == [('a', 1, 1.0), ('b', 0, 2.0), ('a', 2, 3.0)]
    assert least_important(pools, 9) == least_important(pools, 3)  # one of each unit stays
    assert least_important([pool('a', [1, 2], floor=2)], 1) == []
    assert least_important([pool('a', [2, 2, 2]), pool('b', [2, 2])], 1) == [PrunedSet('a', 0, 2.0)]  # the first


def test_blocks_by_hand():
    """``a`` has five and first loses one to become a multiple of 4; ``b`` is one."""
    a, b = pool('a', [9, 8, 7, 6, 1], block=4), pool('b', [2, 3, 4, 5, 5, 6, 7, 8], block=4)
    assert least_important([a, b], 1) == [('a', 4, 1.0)]
    assert [one[:2] for one in least_important([a, b], 2)] == [('a', 4), ('b', 0), ('b', 1), ('b', 2), ('b', 3)]
    # the mean decides: one class of 3.6 against four of 2, 3, 4, 5
    assert least_important([pool('a', [9, 8, 7, 6, 3.6], block=4), b], 1)[0].unit == 'b'
    # a block does not go below the floor: 8 stay 8 where 5 must stay
    assert least_important([pool('b', [2, 3, 4, 5, 5, 6, 7, 8], floor=5, block=4)], 1) == []


@pytest.mark.parametrize('seed', range(5))
def test_against_brute_force(seed):
    """Of all choices of blocks, in order within their unit, the one that is taken has the least largest mean."""
    rng = random.Random(seed)
    pools = [pool(str(unit), [rng.choice([INF, *range(1, 30)]) + unit / 10 for _ in range(6)], floor=rng.choice([0, 2]),
                  block=rng.choice([1, 2, 3])) for unit in range(3)]
    blocks = {}
    for one in pools:
        order, start, size = np.argsort(one.scores, kind='stable'), 0, one.present % one.block or one.block
        blocks[one.unit] = []
        while start + size <= one.spare:
            blocks[one.unit].append(order[start:start + size])
            start, size = start + size, one.block
    means = {unit: [float(next(p for p in pools if p.unit == unit).scores[block].mean()) for block in several]
             for unit, several in blocks.items()}
    for count in (1, 3, 5):
        taken = least_important(pools, count)
        best = None
        for lengths in itertools.product(*[range(len(several) + 1) for several in blocks.values()]):
            classes = sum(len(block) for several, n in zip(blocks.values(), lengths) for block in several[:n])
            worst = max([mean for several, n in zip(means.values(), lengths) for mean in several[:n]], default=0.0)
            if classes >= min(count, sum(len(block) for several in blocks.values() for block in several)):
                best = min(best or (INF, 0), (worst, classes))
        chosen = {unit: {one.channel for one in taken if one.unit == unit} for unit in blocks}
        worst = max([mean for unit, several in means.items() for block, mean in zip(blocks[unit], several)
                     if set(block.tolist()) <= chosen[unit]], default=0.0)
        assert worst == pytest.approx(best[0])
        assert len(taken) >= min(count, best[1])


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(NotFiniteError, match="the score of unit 'b' is NaN"):
        least_important([pool('a', [1, 2]), Pool('b', np.array([1, np.nan]), 1, 2)], 1)
    with pytest.raises(NotFiniteError, match="the score of unit 'a' and 1 more is infinite"):
        least_important([Pool('a', np.array([INF, INF]), 1, 2), Pool('b', np.array([INF, INF]), 1, 2)], 1)
    # what is finite goes, no more
    assert least_important([Pool('a', np.array([1, INF, INF]), 2, 3)], 2) == [('a', 0, 1.0)]


def algorithm(**options):
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 12, 3), torch.nn.ReLU(),
                               torch.nn.Conv2d(12, 4, 1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return GroupFisherAlgorithm(ToyClassifier(body), mutator_cfg(), **options)


def test_several_channels_go_in_one_cut_and_widths_stay_aligned():
    several = algorithm(channels_per_event=3)
    aligned = algorithm(channels_per_event=2, align=4)
    for one, widths in ((several, [25, 22, 19]), (aligned, [24, 20, 16])):
        wrapper = OptimWrapper(torch.optim.SGD(one.parameters(), lr=0.01, momentum=0.9))
        for width in widths:
            one.train_step(dict(inputs=torch.randn(4, 3, 8, 8), data_samples=torch.randint(4, (4,))), wrapper)
            assert sum(one.mutator.structure.values()) == width
    assert all(width % 4 == 0 for width in aligned.mutator.structure.values())
    with pytest.raises(ValueError, match='channels_per_event is 0; it is the number of channels'):
        algorithm(channels_per_event=0)
    with pytest.raises(ValueError, match='align is 1.5; it is what the widths become a multiple of'):
        algorithm(align=1.5)
