"""The best choice of a sum of terms: against HiGHS and against every choice."""
import numpy as np
import pytest
from width_problems import clique, every_choice, highs, residual_network, small_problem

from mmprune.latency.elimination import Elimination, TooDenseError


def priced(problem, price):
    """Return the sizes, edges and terms of a problem whose cost has a price."""
    cost = problem.costs[0]
    return ([len(kept) for kept in problem.scores], problem.edges,
            [kept - price * terms for kept, terms in zip(problem.scores, cost.unary)],
            {edge: -price * terms for edge, terms in cost.pairs.items()})


def value(choice, unary, pairs):
    return (sum(terms[level] for terms, level in zip(unary, choice))
            + sum(terms[choice[one], choice[two]] for (one, two), terms in pairs.items()))


def price_of(seed):
    return 10 ** np.random.RandomState(seed).uniform(-3, 0)


@pytest.mark.parametrize('seeds', [range(start, start + 20) for start in range(0, 200, 20)], ids=str)
def test_what_highs_finds_at_any_price(seeds):
    for seed in seeds:
        problem, price = small_problem(seed), price_of(seed)
        sizes, edges, unary, pairs = priced(problem, price)
        choice, total = Elimination(sizes, edges).best(unary, pairs)
        assert total == pytest.approx(value(choice, unary, pairs), rel=1e-12, abs=1e-9)
        assert total == pytest.approx(value(highs(problem, [price]), unary, pairs), rel=1e-9, abs=1e-9), seed


@pytest.mark.parametrize('seed', range(12))
def test_marginals_are_the_best_of_every_choice_with_a_level(seed):
    problem = small_problem(seed, units=(1 + 2 * (seed % 3 > 0), 5), levels=(1, 5))
    sizes, edges, unary, pairs = priced(problem, price_of(seed))
    values = {choice: value(choice, unary, pairs) for choice in every_choice(problem)}
    for unit, found in enumerate(Elimination(sizes, edges).marginals(unary, pairs)):
        wanted = [max(total for choice, total in values.items() if choice[unit] == level)
                  for level in range(sizes[unit])]
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-9)


def test_units_without_a_pair_are_chosen_alone():
    choice, total = Elimination([3, 2], []).best([np.array([1.0, 3.0, 2.0]), np.array([5.0, 5.0])], {})
    assert (choice, total) == ([1, 0], 8.0)  # of equal levels the lower
    assert Elimination([], []).best([], {}) == ([], 0.0)


def test_an_order_serves_any_levels():
    sizes, edges, unary, pairs = priced(small_problem(4), 0.1)
    fewer = [np.arange(0, size, 2) for size in sizes]
    again = Elimination(sizes, edges).resized([len(own) for own in fewer])
    fresh = Elimination([len(own) for own in fewer], edges)
    terms = ([values[own] for values, own in zip(unary, fewer)],
             {edge: values[np.ix_(fewer[edge[0]], fewer[edge[1]])] for edge, values in pairs.items()})
    assert again.best(*terms) == fresh.best(*terms)


def test_tables_of_a_residual_network_are_small():
    sizes, edges = residual_network()
    assert Elimination(sizes, edges).work < 1_200_000


def test_a_dense_graph_is_refused():
    assert Elimination(*clique(4, 10), largest=10_000).work >= 10_000
    with pytest.raises(TooDenseError, match='too large a table'):
        Elimination(*clique(5, 10), largest=10_000)
