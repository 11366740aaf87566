"""A prune run says at its start whether it can reach its target, ends at it and not below, and fails if it misses."""
import copy
import itertools
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from digits_runs import make_runner, train, write_prune_config
from paths import ROOT
from toy_nets import Concat, Depthwise, Residual, ToyClassifier, algorithm_of

from mmprune.engine.hook import ResourceInfoHook
from mmprune.engine.outlook import cheapest_pruned, check_reach, evenly_pruned, iterations_needed, largest_block
from mmprune.engine.resource import Resource
from mmprune.pruning.search import share_of_cost
from mmprune.pruning.target import TargetError


def algorithm(**changes):
    made = algorithm_of(ToyClassifier(Residual()), size=6)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def ratio_after_cut(mutator, structure):
    cut = copy.deepcopy(mutator)
    cut.apply_structure(structure)
    return cut.cost['macs'] / cut.complexity.cost({})['macs']


@pytest.mark.parametrize('floor', [1, 3])
def test_least_ratio_is_that_of_the_floors(floor):
    mutator = algorithm().mutator
    for unit in mutator.units:
        unit.min_sets = floor
    least = ratio_after_cut(mutator, {unit.name: floor for unit in mutator.units})
    assert share_of_cost(mutator, evenly_pruned(mutator, 1.0), 'flops') == pytest.approx(least)
    check_reach(Resource('flops', mutator), least + 1e-6)
    with pytest.raises(TargetError, match=rf'{least:.3f} of the dense flops stay when every unit is at its floor'):
        check_reach(Resource('flops', mutator), least - 1e-6)


def test_blocks_raise_what_is_least():
    mutator = algorithm().mutator
    resource = Resource('flops', mutator)
    in_blocks = {block: resource.share(evenly_pruned(mutator, 1.0, block)) for block in (1, 2, 4)}
    assert in_blocks[1] < in_blocks[2] < in_blocks[4]
    between = (in_blocks[2] + in_blocks[4]) / 2
    check_reach(resource, between, 2)
    with pytest.raises(TargetError, match='at its floor, in blocks of 4 channels .* take a smaller align, a lower'):
        check_reach(resource, between, 4)
    assert largest_block(resource, between, [4, 2, 1]) == 2
    assert largest_block(resource, between, [2, 1]) == 2
    assert largest_block(resource, in_blocks[1] / 2, [4, 2, 1]) == 1


def test_even_shares():
    mutator = algorithm().mutator
    for unit in mutator.units:
        unit.min_sets = 2
    masks = evenly_pruned(mutator, 0.5)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        unit.name: unit.num_sets - round((unit.num_sets - 2) / 2) for unit in mutator.units}
    mutator.cut({name: ~np.isin(np.arange(len(mask)), [0]) for name, mask in masks.items()})  # the first one goes
    again = evenly_pruned(mutator, 0.0)
    assert all((again[unit.name] == unit.kept).all() and not again[unit.name][0] for unit in mutator.units)


@pytest.mark.parametrize(('interval', 'channels'), [(1, 1), (3, 1), (2, 4)])
def test_iterations_are_those_of_an_even_cut(interval, channels):
    made = algorithm(interval=interval, channels_per_event=channels)
    counts = [iterations_needed(made, Resource('flops', made.mutator), target)[0] for target in (0.9, 0.6, 0.3)]
    assert counts == sorted(counts)
    going = max(1, counts[1] // interval * channels)
    structures = []  # by brute force: the fewest channels of an even cut that reach the target
    for step in range(1001):
        masks = evenly_pruned(made.mutator, step / 1000)
        gone = sum(unit.num_sets - int(masks[unit.name].sum()) for unit in made.mutator.units)
        if share_of_cost(made.mutator, masks, 'flops') <= 0.6:
            structures.append(gone)
    assert -(-min(structures) // channels) * interval == counts[1]
    assert going >= min(structures)


@pytest.mark.parametrize('net', [Residual, Concat, Depthwise])
@pytest.mark.parametrize('target', [0.9, 0.7, 0.5])
@pytest.mark.parametrize('floor', [1, 2])
def test_cheapest_channels_first_is_about_the_longest_way(net, target, floor):
    """By brute force: a run ends one set behind the narrowest structure that is still above the target."""
    mutator = algorithm_of(ToyClassifier(net()), size=6).mutator
    for unit in mutator.units:
        unit.min_sets = floor
    masks = cheapest_pruned(Resource('flops', mutator), target)
    assert share_of_cost(mutator, masks, 'flops') <= target
    assert all(mask.sum() >= floor for mask in masks.values())
    gone = sum(int((~mask).sum()) for mask in masks.values())
    longest = 0
    for counts in itertools.product(*(range(floor, unit.num_sets + 1) for unit in mutator.units)):
        structure = {unit.name: np.arange(len(unit.kept)) < count for unit, count in zip(mutator.units, counts)}
        if share_of_cost(mutator, structure, 'flops') > target:
            longest = max(longest, sum(len(unit.kept) - count for unit, count in zip(mutator.units, counts)))
    assert 0.75 * longest <= gone <= longest + 1


class Log:
    """Remembers what a logger is told, and how loudly."""

    def __init__(self):
        self.told = []

    def info(self, line):
        self.told.append(('info', line))

    def warning(self, line):
        self.told.append(('warning', line))


def test_outlook_is_told_by_both_estimates():
    hook = ResourceInfoHook(save_ckpt_thr=[0.6])
    hook.algorithm = algorithm_of(ToyClassifier(Depthwise()), size=6)
    hook.algorithm.interval = 10
    hook.resource = Resource('flops', hook.algorithm.mutator)
    even, most = iterations_needed(hook.algorithm, hook.resource, 0.6)
    assert 0 < even < most

    def told(left, epochs=3):
        runner = SimpleNamespace(iter=5, max_iters=left + 5, max_epochs=epochs, train_dataloader=[0] * 4, logger=Log())
        hook.tell_outlook(runner)
        (level, line), = runner.logger.told
        return level, line

    takes = (f'0.6 of the dense flops take about {even} iterations ({even / 4:.3g} epochs) if all units lose alike and '
             f'{most} if the cheapest channels go first (1 in each event, every 10), and there are ')
    remedy = 'Train longer (max_epochs), prune more often (interval) or more at a time (channels_per_event)'
    assert told(even - 1) == ('warning', f'this run will probably miss its target: {takes}{even - 1}. {remedy}')
    assert told(even) == ('warning', f'this run may miss its target: {takes}{even}. {remedy}')
    assert told(most - 1) == ('warning', f'this run may miss its target: {takes}{most - 1}. {remedy}')
    assert told(most) == ('info', f'{takes}{most}; the run ends at its target')
    assert 'epochs' not in told(most, epochs=1)[1]  # a loop that counts iterations


@pytest.fixture(scope='module')
def prune_config(tmp_path_factory):
    return write_prune_config(tmp_path_factory.mktemp('outlook'))


def test_last_event_takes_no_more_than_the_target(prune_config, tmp_path):
    runner = make_runner(prune_config, tmp_path, {'model.channels_per_event': 40, 'val_cfg': None,
                                                  'val_dataloader': None, 'val_evaluator': None})
    events = []
    prune = runner.model.prune

    def noting(optimizers):
        before = runner.model.mutator.cost['macs']
        removed = prune(optimizers)
        events.append((before, removed, runner.model.mutator.cost['macs']))
        return removed

    runner.model.prune = noting
    train(runner)
    dense = runner.model.mutator.complexity.cost({})['macs']
    assert [len(removed) for _, removed, _ in events[:-1]] == [40] * (len(events) - 1)
    before, removed, after = events[-1]
    assert 1 <= len(removed) < 40
    assert after <= 0.9 * dense < before
    assert 0.9 * dense - after < (before - after) / len(removed) * 4  # the last channel was needed


def test_run_that_is_too_short_says_so_and_fails(prune_config, tmp_path):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', 'tools/train.py', str(prune_config), '--work-dir', str(tmp_path / 'short'),
         '--cfg-options', 'train_dataloader.dataset.indices=32'],
        cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    told = next(i for i, line in enumerate(lines) if 'this run will probably miss its target: 0.9 of the' in line)
    assert told < next(i for i, line in enumerate(lines) if 'Epoch(train)' in line or 'pruned channel' in line)
    assert 'and there are 4. Train longer' in lines[told]
    assert done.stderr.splitlines()[-1].startswith('error: the run ended at ')
    assert 'no checkpoint was written for it. Train longer' in done.stderr


def test_target_below_the_floors_is_refused(prune_config, tmp_path):
    runner = make_runner(prune_config, tmp_path, {'model.mutator.min_channels': 6})
    runner._custom = next(hook for hook in runner.hooks if type(hook).__name__ == 'ResourceInfoHook')
    runner._custom.targets = [0.05]
    with pytest.raises(TargetError, match='the target of 0.05 cannot be reached'):
        runner.train()
