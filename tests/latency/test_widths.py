"""Levels of a unit, and costs and scores of a choice, by hand."""
import numpy as np
import pytest

from mmprune.latency.widths import Cost, WidthProblem, levels_of
from mmprune.units.selection import Pool, least_important


@pytest.mark.parametrize(('sets', 'floor', 'block', 'levels'), [
    (64, 7, 16, [16, 32, 48, 64]),
    (64, 16, 16, [16, 32, 48, 64]),
    (64, 17, 16, [32, 48, 64]),
    (60, 1, 16, [16, 32, 48, 60]),  # one that loses nothing keeps its width
    (64, 0, 16, [0, 16, 32, 48, 64]),
    (3, 1, 16, [3]),
    (3, 3, 1, [3]),
    (3, 5, 1, [3]),
    (4, 1, 1, [1, 2, 3, 4]),
])
def test_levels_are_blocks_from_the_floor_on_and_the_present_width(sets, floor, block, levels):
    assert levels_of(sets, floor, block) == levels


def test_levels_are_the_widths_that_blocks_of_least_scores_lead_to():
    random = np.random.RandomState(0)
    for _ in range(200):
        sets = int(random.randint(1, 40))
        floor, block = int(random.randint(1, sets + 3)), int(random.choice([1, 2, 3, 4, 8, 16]))
        pool = Pool('unit', random.rand(sets), max(0, sets - floor), sets, block)
        reached = {sets - len(least_important([pool], count)) for count in range(sets + 1)}
        assert levels_of(sets, floor, block) == sorted(reached), (sets, floor, block)


def test_sums_of_a_choice_by_hand():
    cost = Cost(1.0, [np.array([2, 3]), np.array([0, 10])], {(0, 1): np.array([[0, 100], [0, 200]])}, 213.0)
    problem = WidthProblem(['a', 'b'], [np.array([1, 2]), np.array([4, 8])], [cost])
    assert cost.total([1, 1]) == 1 + 3 + 10 + 200
    assert cost.total([0, 1]) == 1 + 2 + 10 + 100
    assert problem.score([1, 0]) == 6
    assert problem.is_within([0, 1])
    assert not problem.is_within([1, 1])
    assert problem.edges == [(0, 1)]
