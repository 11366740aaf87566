"""The linear program over choices: against HiGHS."""
import numpy as np
import pytest
from scipy.optimize import linprog

from mmprune.latency.mixture import Mixture


@pytest.mark.parametrize('budgets', [0, 1, 2, 3])
@pytest.mark.parametrize('seed', range(10))
def test_what_highs_finds_while_choices_are_added(seed, budgets):
    random = np.random.RandomState(seed)
    mixture, scores = Mixture(budgets), []
    excess = random.randint(-3, 6, (40, budgets)) / 4  # of many equal numbers
    for number in range(40):
        scores.append(float(random.randint(50)))
        assert mixture.add((number, ), scores[-1], excess[number])
        prices, value, is_within = mixture.solve()
        found = linprog(-np.array(scores), A_ub=excess[:number + 1].T if budgets else None,
                        b_ub=np.zeros(budgets) if budgets else None, A_eq=np.ones((1, number + 1)), b_eq=[1.0])
        assert is_within == (found.status == 0)
        if not is_within:
            assert (prices >= 0).all()
            assert value < 0
            assert -(excess[:number + 1] @ prices).min() <= value + 1e-9
            continue
        assert value == pytest.approx(-found.fun, abs=1e-9)
        assert (scores - excess[:number + 1] @ prices).max() <= value + 1e-9
        weights = np.array([weight for weight, _ in mixture.parts])
        chosen = [choice[0] for _, choice in mixture.parts]
        assert weights.sum() == pytest.approx(1)
        assert (weights @ excess[chosen] <= 1e-9).all()
        assert weights @ np.array(scores)[chosen] == pytest.approx(value)


def test_a_choice_is_added_once():
    mixture = Mixture(1)
    assert mixture.add([1, 2], 3.0, np.array([-1.0]))
    assert not mixture.add([1, 2], 3.0, np.array([-1.0]))
    assert mixture.choices == [(1, 2)]
