"""Units that reach their floor are named while a prune run goes on, each once; structures below a floor load."""
import re

import pytest
import torch
from digits_runs import make_runner, train, write_prune_config
from toy_nets import Grouped, Residual, ToyClassifier, algorithm_of

from mmprune.engine.floors import FloorWatch, at_floor, least_sets
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm


def widths(algorithm, **counts):
    """Cut the first units to so many sets."""
    masks = {}
    for unit, count in zip(algorithm.mutator.units, counts.values()):
        mask = unit.kept.copy()
        mask[count:] = False
        masks[unit.name] = mask
    algorithm.mutator.cut(masks)


def test_a_unit_is_named_once_when_it_gets_to_its_floor():
    algorithm = algorithm_of(ToyClassifier(Residual()), size=6)
    first, second = algorithm.mutator.units[:2]
    first.min_sets, second.min_sets = 3, 2
    watch = FloorWatch(algorithm)
    assert watch.news() == ''
    widths(algorithm, a=4)
    assert watch.news() == ''
    widths(algorithm, a=3)
    assert watch.news() == (f'at their floor (min_channels), nothing more goes of them: {first.name} (3 of '
                            f'{first.width} channels)')
    assert watch.news() == ''
    widths(algorithm, a=3, b=2)
    assert f': {second.name} (2 of {second.width} channels)' in watch.news()
    assert watch.summary() == f'2 of {len(algorithm.mutator.units)} units are at their floor (min_channels)'


@pytest.mark.parametrize(('align', 'least', 'counts'), [
    (1, 1, {1: True, 2: False}), (1, 4, {3: True, 4: True, 5: False}),
    (4, 1, {6: False, 5: False, 4: True}), (4, 3, {6: False, 4: True}), (4, 5, {6: True})])
def test_nothing_goes_of_a_unit_at_its_floor(align, least, counts):
    """Compared with what the selection does take, when it may take everything."""
    for count, expected in counts.items():
        algorithm = algorithm_of(ToyClassifier(Residual()), size=6)
        unit = algorithm.mutator.units[0]
        widths(algorithm, a=count)
        unit.min_sets = least
        algorithm.mutator.fisher.fill_(1.0)
        gone = {lost.unit for lost in algorithm.mutator.least_important(1000, align)}
        assert at_floor(unit, align) is expected is (unit.name not in gone), count


@pytest.mark.parametrize(('align', 'least'), [(1, 1), (1, 3), (4, 1), (4, 5), (4, 6), (16, 1)])
def test_the_floor_in_blocks_is_where_a_run_ends(align, least):
    """By brute force: what the selection leaves of a unit when it may take everything."""
    algorithm = algorithm_of(ToyClassifier(Residual()), size=6)
    for unit in algorithm.mutator.units:
        unit.min_sets = min(least, unit.num_sets)
    algorithm.mutator.fisher.fill_(1.0)
    while pruned := algorithm.mutator.least_important(1000, align):
        algorithm.cut(algorithm.mutator.masks_without(pruned), [])
        algorithm.mutator.fisher.fill_(1.0)
    dense = algorithm_of(ToyClassifier(Residual()), size=6).mutator
    for unit, other in zip(dense.units, algorithm.mutator.units):
        unit.min_sets = other.min_sets
        assert least_sets(unit, align) == other.num_sets


def test_grouped_channels_count_in_sets():
    algorithm = algorithm_of(ToyClassifier(Grouped()), size=6)
    unit = next(unit for unit in algorithm.mutator.units if unit.multiplicity > 1)
    unit.min_sets = unit.num_sets
    assert at_floor(unit)
    assert at_floor(unit, align=2 * unit.multiplicity)
    assert f'{unit.name} ({unit.width} of {unit.width} channels)' in FloorWatch(algorithm).news()


@pytest.fixture(scope='module')
def prune_config(tmp_path_factory):
    return write_prune_config(tmp_path_factory.mktemp('floors'))


def test_a_run_names_each_unit_at_its_floor_once(prune_config, tmp_path):
    runner = make_runner(prune_config, tmp_path, {'model.mutator.min_channels': 0.7, 'model.interval': 1,
                                                  'model.channels_per_event': 4, 'val_cfg': None,
                                                  'val_dataloader': None, 'val_evaluator': None})
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'ResourceInfoHook')
    hook.interval, hook.targets = 2, [0.6]
    train(runner)
    text = next(tmp_path.rglob('*.log')).read_text()
    named = [name for line in text.splitlines() if 'at their floor (min_channels), nothing more goes' in line
             for name in re.findall(r'(\S+_\(\d+, \d+\)_\d+) \(\d+ of', line)]
    at_the_end = [unit.name for unit in runner.model.mutator.units if at_floor(unit)]
    assert len(at_the_end) >= 3
    assert sorted(named) == sorted(at_the_end)
    assert f'{len(named)} of {len(runner.model.mutator.units)} units are at their floor' in text
    first = next(line for line in text.splitlines() if 'nothing more goes' in line)
    assert text.index(first) < text.index('wrote flops_0.60.pth')


def test_a_structure_below_the_floor_loads(tmp_path):
    """A checkpoint and a structure of before, of a model whose config has a floor now; pruning goes on elsewhere."""
    def algorithm(floor):
        torch.manual_seed(0)
        mutator = dict(type='GroupFisherChannelMutator', min_channels=floor,
                       channel_unit_cfg=dict(type='GroupFisherChannelUnit', mutate_linear=True),
                       demo_input=dict(type='DemoInput', input_shape=(1, 3, 6, 6)))
        return GroupFisherAlgorithm(ToyClassifier(Residual()), mutator, interval=1)

    before = algorithm(1)
    structure = {unit.name: 1 if place == 0 else unit.width for place, unit in enumerate(before.mutator.units)}
    before.mutator.apply_structure(structure)
    torch.save(dict(state_dict=before.state_dict()), tmp_path / 'before.pth')
    for load in (lambda a: a.mutator.apply_structure(structure), lambda a: a.load_pruned(str(tmp_path / 'before.pth')),
                 lambda a: a.load_state_dict(before.state_dict())):
        after = algorithm(0.5)
        load(after)
        assert after.mutator.structure == structure
        low = after.mutator.units[0]
        assert low.num_sets < low.min_sets
        after.mutator.fisher.fill_(1.0)
        gone = {lost.unit for lost in after.mutator.least_important(1000)}
        assert gone
        assert low.name not in gone
