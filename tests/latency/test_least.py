"""The least that a cost can be: against every choice, also where pairs are left out."""
import itertools

import numpy as np
import pytest
from width_problems import densely_connected, every_choice, wide_problem

from mmprune.latency.least import least_cost
from mmprune.latency.solver import InfeasibleError, solve
from mmprune.latency.widths import Cost, WidthProblem


def any_costs(seed, budgets=1):
    """Return a problem where all units are tied and costs neither grow nor fall with the width."""
    random = np.random.RandomState(seed)
    sizes = random.randint(2, 5, 5)
    edges = list(itertools.combinations(range(5), 2))
    costs = [Cost(1.0, [random.randn(size) for size in sizes],
                  {(one, two): random.randn(sizes[one], sizes[two]) for one, two in edges}, 0.0)
             for _ in range(budgets)]
    return WidthProblem(list('abcde'), [np.cumsum(random.rand(size)) for size in sizes], costs)


@pytest.mark.parametrize('largest', [4_000_000, 20])
@pytest.mark.parametrize('seed', range(20))
def test_the_least_of_every_choice(seed, largest, monkeypatch):
    monkeypatch.setattr('mmprune.latency.elimination.LARGEST_TABLE', largest)
    problem = any_costs(seed, 2)
    for number, cost in enumerate(problem.costs):
        found = least_cost(problem, number)
        assert found.cost == pytest.approx(min(map(cost.total, every_choice(problem))), abs=1e-9)
        assert found.proven


@pytest.mark.parametrize('seed', range(10))
def test_a_budget_is_refused_with_the_true_least_where_pairs_are_left_out(seed, monkeypatch):
    monkeypatch.setattr('mmprune.latency.elimination.LARGEST_TABLE', 20)
    problem = any_costs(seed)
    cost = problem.costs[0]
    least = min(map(cost.total, every_choice(problem)))
    cost.budget = least - 0.01
    with pytest.raises(InfeasibleError, match='the least that can be reached is') as caught:
        solve(problem)
    assert caught.value.least == pytest.approx(least, abs=1e-9)
    cost.budget = least + 0.01
    assert solve(problem).costs[0] <= cost.budget


def test_the_least_of_a_densely_connected_network_is_that_of_its_least_widths():
    problem = wide_problem(*densely_connected(60, 4), seed=0)
    found = least_cost(problem, 0)
    assert (found.cost, found.proven) == (problem.costs[0].total([0] * 60), True)


def test_what_is_not_proven_is_called_found(monkeypatch):
    monkeypatch.setattr('mmprune.latency.elimination.LARGEST_TABLE', 1)
    monkeypatch.setattr('mmprune.latency.least.PARTS', 2)
    problem = any_costs(1)
    problem.costs[0].budget = min(map(problem.costs[0].total, every_choice(problem))) - 0.01
    with pytest.raises(InfeasibleError, match='the least that was found is') as caught:
        solve(problem)
    assert not caught.value.proven


def test_without_units_the_least_is_the_constant():
    assert least_cost(WidthProblem([], [], [Cost(2.0, [], {}, 1.0)]), 0) == (2.0, 1.0, True)


@pytest.mark.parametrize(('seed', 'constant'), [(5, 1e9), (12, 1e11), (9, 1e13)])
def test_a_constant_far_above_what_varies(seed, constant):
    """What rounding takes from a bound is no reason to split."""
    problem = any_costs(seed)
    problem.costs[0].constant = constant
    found = least_cost(problem, 0)
    assert found.proven
    assert found.cost == pytest.approx(min(map(problem.costs[0].total, every_choice(problem))))
