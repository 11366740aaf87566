"""Heads and dimensions in a target of time, against every choice of widths."""
import itertools

import numpy as np
import pytest
import torch
from tiny_transformer import TinyViT, images

from mmprune import Pruner
from mmprune.latency.channel_sum import ChannelSum, axis_sums
from mmprune.latency.node_law import NodeLaw
from mmprune.latency.table import Calibration, LatencyTable
from mmprune.pruning.budgets import Budgets
from mmprune.pruning.plan import make_plan
from mmprune.pruning.search import Search
from mmprune.pruning.target import PruningTarget, TargetError
from mmprune.pruning.time_target import TimeTarget


@pytest.fixture(scope='module')
def made():
    torch.manual_seed(0)
    return Pruner(TinyViT(depth=1), images().float(), 'L2')


def table_of(mutator, seed):
    """Return the table of a runtime in which layers and the two products of the attention take random factors."""
    sums, random = axis_sums(mutator), np.random.RandomState(seed)
    laws = [NodeLaw(name, 'Gemm', sums[name, 1], sums[name, 0], random.rand(4) * [1, 0.1, 0.1, 0.1])
            for name in sorted({tensor for tensor, _ in sums}) if (name, 0) in sums and (name, 1) in sums]
    heads, *dims = [unit.name for unit in mutator.units if unit.channels.part]
    laws += [NodeLaw(name, 'MatMul', ChannelSum((), 0, ((1, (heads, )), )), ChannelSum((), 0, ((1, (name, )), )),
                     random.rand(4)) for name in dims]
    units = {unit.name: len(unit.kept) for unit in mutator.units}
    table = LatencyTable({}, (1, 3, 8, 8), units, 1, 0.0, laws, Calibration(0.5, 1.0, 1.0, 0.0), 8)
    table.dense_ms = table.predict({})
    return table


def random_scores(mutator, seed):
    random = torch.Generator().manual_seed(seed)
    return {unit.name: torch.rand(len(unit.kept), generator=random) for unit in mutator.units}


def searched(made, table, scores, share):
    target = PruningTarget.of(dict(latency=share, max_pruned_ratio=1.0), 'global')
    return Search(target, made.mutator, scores, 1.0, Budgets(target, made.mutator, table), 1).run()


def best_of_all(made, table, scores, most):
    """Return the most that any widths within the budget keep, and the most with all heads."""
    units = list(made.mutator.units)
    kept = {unit.name: np.cumsum(np.sort(scores[unit.name].double().numpy())[::-1]) for unit in units}
    best = {False: 0.0, True: 0.0}
    for choice in itertools.product(*(range(1, len(unit.kept) + 1) for unit in units)):
        counts = {unit.name: count for unit, count in zip(units, choice)}
        score = sum(kept[name][count - 1] for name, count in counts.items())
        whole = all(counts[unit.name] == len(unit.kept) for unit in units if unit.channels.part == 'heads')
        if score > best[whole] and table.predict(counts) <= most:
            best[whole] = score
    return max(best.values()), best[True]


@pytest.mark.parametrize('seed', range(4))
def test_heads_and_dimensions_keep_nearly_the_most_that_any_widths_keep(made, seed):
    table, scores = table_of(made.mutator, seed), random_scores(made.mutator, seed)
    for name in [unit.name for unit in made.mutator.units if unit.channels.part == 'heads']:
        scores[name] *= 2 * seed  # from worthless heads to dear ones
    found = searched(made, table, scores, 0.5)
    counts = {name: int(mask.sum()) for name, mask in found.masks.items()}
    kept = sum(float(scores[name][torch.from_numpy(mask)].double().sum()) for name, mask in found.masks.items())
    best, with_all_heads = best_of_all(made, table, scores, 0.5 * table.dense_ms)
    assert table.predict(counts) <= 0.5 * table.dense_ms * (1 + 1e-9)
    assert kept == pytest.approx(found.widths.score)
    assert best >= kept - 1e-6 >= max(0.97 * best, with_all_heads - 1e-5)


def test_a_time_that_needs_fewer_heads_is_reached(made):
    table, scores = table_of(made.mutator, 0), random_scores(made.mutator, 0)
    heads = next(unit for unit in made.mutator.units if unit.channels.part == 'heads')
    least = table.predict({**{unit.name: 1 for unit in made.mutator.units}, heads.name: len(heads.kept)})
    share = 0.95 * least / table.dense_ms
    found = searched(made, table, scores, share)
    assert found.masks[heads.name].sum() < len(heads.kept)
    share = 0.5 * table.predict({unit.name: 1 for unit in made.mutator.units}) / table.dense_ms
    with pytest.raises(TargetError, match='cannot be reached'):
        searched(made, table, scores, share)


def test_a_plan_for_a_time_takes_heads_and_says_that_its_bound_is_not_known(made):
    table = table_of(made.mutator, 1)
    target = PruningTarget.of(dict(latency=0.4, max_pruned_ratio=1.0), 'global')
    plan = make_plan(made.mutator, made.criterion, target, time=TimeTarget(table))
    left = table.predict({name: int(mask.sum()) for name, mask in plan.masks.items()})
    assert left <= 0.4 * table.dense_ms * (1 + 1e-9)
    assert 0 < plan.kept_score < 1
    assert np.isnan(plan.bound)


def test_heads_alone_and_nothing_at_all(made):
    table, scores = table_of(made.mutator, 2), random_scores(made.mutator, 2)
    heads = next(unit.name for unit in made.mutator.units if unit.channels.part == 'heads')
    share = table.predict({heads: 2}) / table.dense_ms
    found = searched(made, table, {heads: scores[heads]}, 1.001 * share)
    assert {name: int((~mask).sum()) for name, mask in found.masks.items() if not mask.all()} == {heads: 1}
    assert found.masks[heads].argmin() == scores[heads].argmin()
    with pytest.raises(TargetError, match='cannot be reached'):
        searched(made, table, {heads: scores[heads]}, 0.1)
    with pytest.raises(TargetError, match='cannot be reached'):
        Search(PruningTarget.of(dict(latency=0.5, levels={'*': 0.05}), 'global'), made.mutator, scores, 1.0, Budgets(
            PruningTarget.of(dict(latency=0.5), 'global'), made.mutator, table), 1).run()


def test_no_bound_where_a_product_has_two_units_that_are_chosen(made):
    table, scores = table_of(made.mutator, 3), random_scores(made.mutator, 3)
    heads, *dims = [unit.name for unit in made.mutator.units if unit.channels.part]
    del scores[heads]
    assert searched(made, table, scores, 0.6).widths.bound >= searched(made, table, scores, 0.6).widths.score
    table.laws.append(NodeLaw('k v', 'MatMul', ChannelSum(()), ChannelSum((), 0, ((1, tuple(dims)), )),
                              np.array([0.0, 0.0, 5.0, 0.0])))
    assert np.isnan(searched(made, table, scores, 0.6).widths.bound)
