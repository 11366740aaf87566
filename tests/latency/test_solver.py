"""Widths under budgets: against every choice, and against HiGHS."""
import numpy as np
import pytest
from width_problems import clique, densely_connected, every_choice, highs, residual_network, small_problem, wide_problem

from mmprune.latency.solver import InfeasibleError, solve
from mmprune.latency.widths import Cost, WidthProblem


def best_of_all(problem):
    return max(problem.score(choice) for choice in every_choice(problem) if problem.is_within(choice))


def check(problem, found):
    """Check that a solution says of itself what is true."""
    assert problem.is_within(found.choice)
    assert found.score == problem.score(found.choice)
    assert found.costs == [cost.total(found.choice) for cost in problem.costs]
    assert found.bound >= found.score
    assert found.exact == (found.bound <= found.score + 1e-9 * abs(found.score))


@pytest.mark.parametrize('budgets', [1, 2])
@pytest.mark.parametrize('seeds', [range(start, start + 20) for start in range(0, 200, 20)], ids=str)
def test_budgets_hold_and_no_score_is_lost(seeds, budgets):
    for seed in seeds:
        problem = small_problem(seed, budgets)
        found, best = solve(problem), problem.score(highs(problem))
        check(problem, found)
        assert found.score >= best * (1 - 1e-8), seed
        assert found.bound >= best * (1 - 1e-8), seed
        assert found.exact


@pytest.mark.parametrize('seed', range(30))
def test_every_choice_of_tiny_problems(seed):
    problem = small_problem(seed, 1 + seed % 3, units=(1 + 2 * (seed % 3 > 0), 5), levels=(1, 4))
    found = solve(problem)
    check(problem, found)
    assert found.score == pytest.approx(best_of_all(problem), rel=1e-9)
    assert found.exact


@pytest.mark.parametrize('seed', range(10))
def test_one_unit_by_hand(seed):
    """Neither scores nor costs have to grow with the width."""
    random = np.random.RandomState(seed)
    scores, costs = random.randn(20), random.rand(20)
    found = solve(WidthProblem(['unit'], [scores], [Cost(0.5, [costs], {}, 1.0)]))
    assert found.score == scores[costs <= 0.5].max()
    assert found.exact


@pytest.mark.parametrize('seed', range(20))
def test_scores_and_costs_of_any_kind(seed):
    """Costs that fall with the width, or are negative; scores in any order and of any size."""
    random = np.random.RandomState(seed)
    sizes = random.randint(1, 5, 4)
    scores = [10.0 ** random.randint(-6, 7) * random.randn(size) for size in sizes]
    costs = []
    for _ in range(int(random.randint(0, 4))):
        pairs = {(0, 1): random.randn(*sizes[:2]), (1, 3): random.randn(*sizes[[1, 3]])}
        costs.append(Cost(float(random.randn()), [random.randn(size) for size in sizes], pairs, 0.0))
        costs[-1].budget = costs[-1].constant + random.rand()
    problem = WidthProblem(list('abcd'), scores, costs)
    if not any(map(problem.is_within, every_choice(problem))):
        with pytest.raises(InfeasibleError):
            solve(problem)
        return
    found = solve(problem)
    check(problem, found)
    assert found.score == pytest.approx(best_of_all(problem), rel=1e-8)


def test_a_budget_that_is_met_exactly():
    cost = Cost(0.1, [np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.3])], {}, 0.0)
    cost.budget = cost.total([2, 0])
    scores = [np.array([0.0, 1.0, 5.0]), np.array([0.0, 1.0, 2.0])]
    assert solve(WidthProblem(['a', 'b'], scores, [cost])).choice == [2, 0]


def test_without_budgets_all_is_kept():
    problem = WidthProblem(['a', 'b'], [np.array([1.0, 3.0, 2.0]), np.array([0.0, 4.0])], [])
    assert solve(problem) == ([1, 1], 7.0, [], pytest.approx(7.0), True)
    assert solve(WidthProblem([], [], [Cost(1.0, [], {}, 1.0)])) == ([], 0.0, [1.0], 0.0, True)


def test_a_budget_that_leaves_all_is_no_budget():
    problem = small_problem(8)
    highest = [len(kept) - 1 for kept in problem.scores]
    problem.costs[0].budget = problem.costs[0].total(highest)
    found = solve(problem)
    assert (found.choice, found.exact) == (highest, True)


def test_the_least_choice_alone_is_within():
    problem = small_problem(10)
    lowest = [0] * len(problem.scores)
    problem.costs[0].budget = problem.costs[0].total(lowest)
    assert solve(problem).score == pytest.approx(problem.score(highs(problem)))


@pytest.mark.parametrize('seed', range(5))
def test_a_budget_below_the_least_cost_is_refused_with_that_cost(seed):
    problem = small_problem(seed, 2)
    cost = problem.costs[1]
    least = cost.total([0] * len(problem.scores))
    cost.budget = least - 0.5
    with pytest.raises(InfeasibleError, match=f'budget 2 is {cost.budget:.6g}, .* is {least:.6g}$') as caught:
        solve(problem)
    assert (caught.value.number, caught.value.least, caught.value.budget) == (1, least, cost.budget)


def test_budgets_that_exclude_each_other_are_refused():
    rising, falling = np.array([0.0, 1.0, 2.0]), np.array([2.0, 1.0, 0.0])
    problem = WidthProblem(['a'], [rising], [Cost(0.0, [rising], {}, 0.5), Cost(0.0, [falling], {}, 0.5)])
    with pytest.raises(InfeasibleError, match='but not together with the others'):
        solve(problem)


def test_the_same_problem_has_the_same_solution():
    assert solve(small_problem(7, 2)) == solve(small_problem(7, 2))


@pytest.mark.parametrize('budgets', [1, 2])
def test_a_network_of_the_size_of_resnet50_is_solved_near_its_bound(budgets):
    problem = wide_problem(*residual_network(), seed=0, budgets=budgets)
    found = solve(problem)
    check(problem, found)
    assert found.score >= 0.9999 * found.bound


def test_units_of_a_concat_are_solved_near_their_bound():
    """A table over all of them would have a billion elements."""
    problem = wide_problem(*clique(6, 32), seed=0)
    found = solve(problem)
    check(problem, found)
    assert found.score >= 0.999 * found.bound


def test_a_densely_connected_network_is_solved_near_its_bound():
    problem = wide_problem(*densely_connected(60, 4), seed=0)
    found = solve(problem)
    check(problem, found)
    assert found.score >= 0.995 * found.bound


@pytest.mark.parametrize('seed', range(12))
def test_where_no_table_is_small_enough(seed, monkeypatch):
    """Pairs are left out, yet the best choice is found and known to be the best."""
    monkeypatch.setattr('mmprune.latency.elimination.LARGEST_TABLE', 30)
    problem = small_problem(seed, 1 + seed % 2, units=(3, 5), levels=(2, 5))
    found = solve(problem)
    check(problem, found)
    assert found.score == pytest.approx(best_of_all(problem), rel=1e-9)
    assert found.exact
