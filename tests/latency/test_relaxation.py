"""Bounds of parts: valid for every choice, also where pairs are left out."""
import numpy as np
import pytest
from width_problems import clique, every_choice, small_problem, wide_problem

from mmprune.latency.relaxation import Part


def parts_of(seed, budgets, largest, monkeypatch):
    """Return a problem, a part with some of its levels near a random choice, and the choices of the part."""
    monkeypatch.setattr('mmprune.latency.elimination.LARGEST_TABLE', largest)
    problem, random = small_problem(seed, budgets, units=(3, 5), levels=(2, 5)), np.random.RandomState(seed)
    levels = [np.flatnonzero(random.rand(len(kept)) < 0.8) for kept in problem.scores]
    levels = [own if len(own) else np.array([0]) for own in levels]
    part = Part(problem, levels, [int(random.randint(len(kept))) for kept in problem.scores])
    return problem, part, [choice for choice in every_choice(problem) if part.has(choice)]


@pytest.mark.parametrize('largest', [4_000_000, 30])
@pytest.mark.parametrize('budgets', [1, 2])
@pytest.mark.parametrize('seed', range(12))
def test_no_choice_of_a_part_is_above_its_bound(seed, budgets, largest, monkeypatch):
    problem, part, choices = parts_of(seed, budgets, largest, monkeypatch)
    inside = [problem.score(choice) for choice in choices if problem.is_within(choice)]
    relaxed = part.relaxed()
    assert relaxed.bound >= max(inside, default=-np.inf)
    if relaxed.bound == -np.inf:
        return
    least = max(inside, default=0.0) * 0.9
    levels = part.fixed(relaxed.prices, least)
    better = [choice for choice in choices if problem.is_within(choice) and problem.score(choice) > least]
    assert better == [] or all(choice[unit] in own for choice in better for unit, own in enumerate(levels))


def test_pairs_are_left_out_where_tables_are_too_large(monkeypatch):
    monkeypatch.setattr('mmprune.latency.elimination.LARGEST_TABLE', 30)
    problem = wide_problem(*clique(4, 3), seed=0, budgets=2)
    part = Part(problem, [np.arange(3)] * 4, [1, 0, 2, 1])
    assert len(part.left_out) == 1  # three units of three levels fit
    assert all(min(part.missed(choice).values()) >= -1e-12 for choice in every_choice(problem))
    assert not any(part.missed([own[place] for own, place in zip(part.levels, part.near_places)]).values())


@pytest.mark.parametrize('seed', range(6))
def test_a_part_of_one_choice_is_that_choice(seed, monkeypatch):
    monkeypatch.setattr('mmprune.latency.elimination.LARGEST_TABLE', 1)
    problem = small_problem(seed)
    choice = tuple(int(size) for size in np.random.RandomState(seed).randint([len(kept) for kept in problem.scores]))
    part = Part(problem, [np.array([level]) for level in choice], [0] * len(choice))
    problem.costs[0].budget = problem.costs[0].total(choice) + 0.1
    part = Part(problem, part.levels, [0] * len(choice))
    assert part.relaxed().bound == pytest.approx(problem.score(choice))
    problem.costs[0].budget -= 0.2
    assert Part(problem, part.levels, [0] * len(choice)).relaxed().bound == -np.inf
