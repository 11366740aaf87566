"""Exchanges of levels: within the budgets, and no better pair of changes is left."""
import itertools

import numpy as np
import pytest
from width_problems import small_problem

from mmprune.latency.exchange import Exchange, improved, within


@pytest.mark.parametrize('budgets', [1, 2])
@pytest.mark.parametrize('seed', range(9))
def test_no_change_of_one_or_two_levels_is_better(seed, budgets):
    problem = small_problem(seed, budgets, levels=(2, 5))
    lowest = [0] * len(problem.scores)
    found = improved(problem, lowest)
    assert problem.is_within(found)
    assert problem.score(found) >= problem.score(lowest)
    for one, two in itertools.combinations(range(len(found)), 2):
        for pair in itertools.product(range(len(problem.scores[one])), range(len(problem.scores[two]))):
            other = list(found)
            other[one], other[two] = pair
            assert not problem.is_within(other) or problem.score(other) <= problem.score(found) + 1e-9


def test_changes_add_up_over_many_moves():
    problem = small_problem(5, 2)
    exchange = Exchange(problem, [0] * len(problem.scores))
    random = np.random.RandomState(0)
    for _ in range(50):
        unit = int(random.randint(len(problem.scores)))
        exchange.move(unit, int(random.randint(len(problem.scores[unit]))))
    for number, cost in enumerate(problem.costs):
        for unit, own in enumerate(exchange.by_unit(exchange.changes(number))):
            for level, change in enumerate(own):
                other = list(exchange.choice)
                other[unit] = level
                assert change == pytest.approx(cost.total(other) - cost.total(exchange.choice), abs=1e-9)


@pytest.mark.parametrize('seed', range(9))
def test_a_choice_is_brought_within_the_budgets(seed):
    problem = small_problem(seed, 2)
    found = within(problem, [len(kept) - 1 for kept in problem.scores])
    assert problem.is_within(found)


def test_nothing_is_within_a_budget_below_the_least():
    problem = small_problem(0)
    problem.costs[0].budget = problem.costs[0].total([0] * len(problem.scores)) - 0.01
    assert within(problem, [len(kept) - 1 for kept in problem.scores]) is None
