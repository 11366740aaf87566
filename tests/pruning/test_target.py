"""Targets: reached with not one channel more than needed, floors, patterns, and what contradicts itself."""
import copy
import functools
import itertools

import numpy as np
import pytest
import torch
import toy_nets
from torch import nn

from mmprune.pruning.search import Search
from mmprune.pruning.target import PruningTarget, TargetError
from mmprune.units.choice import PatternError
from mmprune.units.mutator import ChannelMutator
from mmprune.units.selection import NotFiniteError

KEYS = {'flops': 'macs', 'params': 'params', 'acts': 'acts'}


def mutator_of(net, size=8, **options):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, size, size)), **options)
    mutator.prepare(net)
    return mutator


@functools.lru_cache(maxsize=None)
def traced():
    return mutator_of(toy_nets.Everything())


def everything():
    """Return a mutator of its own, without tracing the net again."""
    return copy.deepcopy(traced())


def chain(*widths, **options):
    """Return the mutator of convolutions one behind the other, each a unit but the last."""
    layers = [nn.Conv2d(a, b, 1) for a, b in zip((3, *widths), (*widths, 2))]
    return mutator_of(nn.Sequential(*itertools.chain.from_iterable((layer, nn.ReLU()) for layer in layers)), 4,
                      **options)


def scores_of(mutator, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {unit.name: torch.rand(int(unit.kept.sum()), generator=generator) for unit in mutator.units}


def choose(mutator, scores=None, progress=1.0, **target):
    return Search(PruningTarget(**target), mutator, scores_of(mutator) if scores is None else scores, progress).run()


def widths(mutator, masks):
    return [int(masks[unit.name].sum()) * unit.multiplicity for unit in mutator.units]


def by_name(mutator, masks):
    return {unit.name.split('_(')[0]: int(masks[unit.name].sum()) * unit.multiplicity for unit in mutator.units}


def share_of(mutator, masks, key):
    """What stays of a cost, counted on the cut widths."""
    return mutator.complexity.cost(mutator.surgery.widths_with(masks))[key] / mutator.complexity.cost({})[key]


def gone_last(mutator, masks, scores):
    """Return the unit and class with the highest score of all that went."""
    return max((float(scores[unit.name][c]), unit.name, c) for unit in mutator.units
                for c in np.flatnonzero(~masks[unit.name]))


# global scope

@pytest.mark.parametrize('wanted', [0.8, 0.5, 0.25])
@pytest.mark.parametrize('name', KEYS)
def test_a_cost_is_reached_and_one_less_misses_it(name, wanted):
    mutator = everything()
    scores = scores_of(mutator)
    chosen = choose(mutator, scores, **{name: wanted})
    assert share_of(mutator, chosen.masks, KEYS[name]) <= wanted
    _, unit, last = gone_last(mutator, chosen.masks, scores)
    one_less = {**chosen.masks, unit: chosen.masks[unit].copy()}
    one_less[unit][last] = True
    assert share_of(mutator, one_less, KEYS[name]) > wanted
    # whatever stays, but for what a floor holds, has a higher score than all that went
    for other in mutator.units:
        if other.name not in chosen.kept_by_floor:
            stay = scores[other.name][torch.from_numpy(chosen.masks[other.name])]
            assert float(stay.min()) > float(scores[unit][last])
    # and the cost is that of the model that is really cut
    mutator.cut(chosen.masks)
    assert mutator.cost[KEYS[name]] == round(share_of(mutator, chosen.masks, KEYS[name])
                                             * mutator.complexity.cost({})[KEYS[name]])


def test_the_least_scores_of_all_units_go_by_hand():
    mutator = chain(4, 3)
    a, b = (unit.name for unit in mutator.units)
    scores = {a: torch.tensor([0.5, 0.1, 0.6, 0.2]), b: torch.tensor([0.4, 0.3, 0.9])}
    masks = choose(mutator, scores, ratio=4 / 7, max_pruned_ratio=1).masks
    assert (masks[a].tolist(), masks[b].tolist()) == ([True, False, True, False], [False, False, True])
    for ratio, stay in ((0.0, [4, 3]), (0.28, [3, 3]), (2 / 7, [2, 3]), (0.99, [1, 1])):  # in whole channels
        assert widths(mutator, choose(mutator, scores, ratio=ratio, max_pruned_ratio=1).masks) == stay
    assert all(unit.kept.all() for unit in mutator.units)  # nothing is changed


def test_channels_that_a_grouped_convolution_ties_count_each():
    mutator = mutator_of(toy_nets.Grouped())
    assert [(unit.width, unit.multiplicity) for unit in mutator.units] == [(6, 2), (4, 2)]
    stem, group = (unit.name for unit in mutator.units)
    scores = {stem: torch.tensor([1.0, 3.0, 5.0]), group: torch.tensor([2.0, 4.0])}
    for ratio, stay in ((0.1, [4, 4]), (0.2, [4, 4]), (0.3, [4, 2]), (0.4, [4, 2]), (0.6, [2, 2])):
        assert widths(mutator, choose(mutator, scores, ratio=ratio, max_pruned_ratio=1).masks) == stay
    # one class of eight channels beside classes of one
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1, groups=4), nn.ReLU(), nn.Conv2d(16, 2, 1))
    mutator = mutator_of(net)
    assert [(unit.width, unit.multiplicity) for unit in mutator.units] == [(8, 4), (16, 4)]
    a, b = (unit.name for unit in mutator.units)
    scores = {a: torch.tensor([1.0, 9.0]), b: torch.tensor([2.0, 3.0, 4.0, 5.0])}
    assert widths(mutator, choose(mutator, scores, ratio=0.5).masks) == [4, 8]  # 12 of 24 channels in three classes


# layer scope

@pytest.mark.parametrize('ratio', [0.0, 0.1, 0.25, 0.3, 0.5, 0.9])
def test_the_same_share_of_every_layer(ratio):
    mutator = everything()
    scores = scores_of(mutator)
    chosen = choose(mutator, scores, ratio=ratio, scope='layer')
    for unit in mutator.units:
        mask, score = chosen.masks[unit.name], scores[unit.name].numpy()
        assert int((~mask).sum()) == int(ratio * len(mask) + 1e-9)
        assert score[~mask].max(initial=0) < score[mask].min()


@pytest.mark.parametrize('wanted', [0.7, 0.4])
@pytest.mark.parametrize('name', KEYS)
def test_the_share_of_every_layer_that_reaches_a_cost(name, wanted):
    """No layer can keep a class more: at the next smaller share it would, and the target would be missed."""
    mutator = everything()
    masks = choose(mutator, **{name: wanted}, scope='layer').masks
    assert share_of(mutator, masks, KEYS[name]) <= wanted
    gone = {unit.name: int((~masks[unit.name]).sum()) for unit in mutator.units}
    shares = sorted({count / len(unit.kept) for unit in mutator.units for count in range(len(unit.kept))})
    share = next(share for share in shares  # the least that meets it, all layers alike
                 if share_of(mutator, choose(mutator, ratio=share, scope='layer').masks, KEYS[name]) <= wanted)
    at_share = choose(mutator, ratio=share, scope='layer').masks
    below = choose(mutator, ratio=share - 1e-6, scope='layer').masks
    for unit in mutator.units:
        more, fewer = (int((~some[unit.name]).sum()) for some in (at_share, below))
        assert gone[unit.name] in (more, fewer)
        if fewer < gone[unit.name]:
            assert share_of(mutator, {**masks, unit.name: below[unit.name]}, KEYS[name]) > wanted
    assert share_of(mutator, at_share, KEYS[name]) <= share_of(mutator, masks, KEYS[name])


def test_levels_by_pattern():
    mutator = chain(8, 8, 8, 8)
    names = [unit.name.split('_(')[0] for unit in mutator.units]
    assert names == ['0', '2', '4', '6']

    def stay(**target):
        return list(by_name(mutator, choose(mutator, **target).masks).values())

    assert stay(levels={'0': 0.5}) == [4, 8, 8, 8]
    assert stay(levels={'*': 0.25, '2': 0.5}) == [6, 4, 6, 6]  # a later pattern wins
    assert stay(levels={'2': 0.5, '*': 0.25}) == [6, 6, 6, 6]
    assert stay(levels={'[02]': 0.5, '2': 0}) == [4, 8, 8, 8]
    for scope in ('layer', 'global'):  # the others follow the target
        assert sum(stay(levels={'0': 0.0}, ratio=0.5, scope=scope)[1:]) == 12
        assert stay(levels={'0': 0.0}, ratio=0.5, scope=scope)[0] == 8
    masks = choose(mutator, levels={'0': 0.5}, flops=0.5).masks
    assert masks[mutator.units[0].name].sum() == 4
    assert share_of(mutator, masks, 'macs') <= 0.5


def test_a_level_of_a_shortcut_is_that_of_all_layers_that_produce_it():
    mutator = mutator_of(toy_nets.Residual())
    assert by_name(mutator, choose(mutator, levels={'conv2': 0.5}).masks) == {'stem': 3, 'conv1': 5}


@pytest.mark.parametrize(('op_types', 'pruned'), [
    (['Conv2d'], {'conv'}), ('Conv2d', {'conv'}), (['Linear'], {'fc1'}), (['Linear', 'Conv2d'], {'conv', 'fc1'}),
    (['_ConvNd'], {'conv'})])
def test_op_types(op_types, pruned):
    mutator = mutator_of(toy_nets.Flatten(), 6)
    stay = by_name(mutator, choose(mutator, ratio=0.5, scope='layer', op_types=op_types).masks)
    assert {name for name, width in stay.items() if width < {'conv': 4, 'fc1': 7}[name]} == pruned


def test_op_types_are_those_of_all_producers():
    mutator = mutator_of(toy_nets.Tokens(), 6)  # the convolution shares its channels with a linear layer
    assert by_name(mutator, choose(mutator, ratio=0.5, op_types=['Linear']).masks) == {'embed': 6, 'fc1': 4}


# floors

def test_floors_by_hand():
    mutator = chain(8, 6, min_channels={'2': 5})
    a, b = (unit.name for unit in mutator.units)
    scores = {a: torch.arange(8.0) + 100, b: torch.arange(6.0)}  # all of the second are below all of the first
    chosen = choose(mutator, scores, ratio=0.5)
    assert widths(mutator, chosen.masks) == [2, 5]  # 7 of 14 go
    assert chosen.kept_by_floor == {b: 5}  # 1 to 5 stay, though 100 to 105 went
    chosen = choose(mutator, scores, ratio=0.5, max_pruned_ratio=0.25)
    assert widths(mutator, chosen.masks) == [6, 5]
    assert chosen.kept_by_floor == {b: 5}  # the first has none that stays below one that went
    chosen = choose(mutator, scores, ratio=0.5, max_pruned_ratio=0.25, scope='layer')
    assert widths(mutator, chosen.masks) == [6, 5]
    assert chosen.kept_by_floor == {a: 2, b: 2}  # 4 and 3 were to go, 2 and 1 went
    grouped = mutator_of(toy_nets.Grouped(), min_channels={'stem': 5})  # in pairs, so 6 stay
    assert list(choose(grouped, ratio=0.4, scope='layer').kept_by_floor.values()) == [2]
    chosen = choose(mutator, scores, levels={'2': 0.5}, ratio=0.25)
    assert widths(mutator, chosen.masks) == [6, 5]
    assert chosen.kept_by_floor == {b: 2}
    assert choose(mutator, scores, ratio=1 / 14).kept_by_floor == {}


def test_one_threshold_for_all_leaves_a_tenth_and_two_channels():
    """Unless somebody asks for less; a share that is given for the unit itself is taken as it is."""
    mutator = chain(40, 6)
    a, b = (unit.name for unit in mutator.units)
    scores = {a: torch.arange(40.0), b: 100 + torch.arange(6.0)}
    chosen = choose(mutator, scores, ratio=0.9)
    assert widths(mutator, chosen.masks) == [4, 2]
    assert chosen.kept_by_floor == {a: 4}
    assert widths(mutator, choose(mutator, scores, ratio=0.9, max_pruned_ratio=1).masks) == [1, 4]
    assert widths(mutator, choose(mutator, scores, ratio=0.95, scope='layer').masks) == [2, 1]
    assert widths(mutator, choose(mutator, scores, levels={'*': 0.95}).masks) == [2, 1]
    assert widths(chain(40, 6, min_channels=9), choose(chain(40, 6, min_channels=9), scores, ratio=0.9).masks) == [9, 6]


@pytest.mark.parametrize('scope', ['layer', 'global'])
@pytest.mark.parametrize('target', [dict(ratio=0.999), dict(flops=0.1), dict(params=0.15)], ids=str)
def test_no_unit_is_emptied(scope, target):
    mutator = mutator_of(toy_nets.Everything(), min_channels={'conv1': 3})
    masks = choose(mutator, scope=scope, max_pruned_ratio=1, **target).masks
    assert min(widths(mutator, masks)) >= 1
    assert by_name(mutator, masks)['conv1'] >= 3


@pytest.mark.parametrize('align', [2, 4, 8])
@pytest.mark.parametrize('target', [dict(ratio=0.5), dict(ratio=0.3, scope='layer'), dict(flops=0.6),
                                    dict(flops=0.6, scope='layer')], ids=str)
def test_what_is_pruned_is_aligned(target, align):
    mutator = everything()
    scores = scores_of(mutator)
    chosen = choose(mutator, scores, align=align, **target)
    for unit, width in zip(mutator.units, widths(mutator, chosen.masks)):
        assert width == unit.width or width % align == 0
        assert width >= 1
    assert widths(mutator, chosen.masks) != [unit.width for unit in mutator.units]
    if 'flops' in target:
        assert share_of(mutator, chosen.masks, 'macs') <= 0.6


@pytest.mark.parametrize('scope', ['global', 'layer'])
@pytest.mark.parametrize('wanted', [0.8, 0.6, 0.4])
@pytest.mark.parametrize('name', KEYS)
def test_no_block_goes_that_the_target_is_met_without(name, wanted, scope):
    mutator = everything()
    scores = scores_of(mutator)
    chosen = choose(mutator, scores, align=4, scope=scope, **{name: wanted})
    assert share_of(mutator, chosen.masks, KEYS[name]) <= wanted
    for unit in mutator.units:
        gone = np.flatnonzero(~chosen.masks[unit.name])
        last = gone[np.argsort(scores[unit.name].numpy()[gone])][-unit.sets_in(4):]  # a block, or what went before one
        one_less = {**chosen.masks, unit.name: chosen.masks[unit.name].copy()}
        one_less[unit.name][last] = True
        assert not len(gone) or share_of(mutator, one_less, KEYS[name]) > wanted


def test_what_a_costly_last_block_leaves_of_a_budget_is_given_back():
    mutator = chain(8, 8)  # 3 x 8 + 8 x 8 + 8 x 2 multiply-adds a position: 104
    a, b = (unit.name for unit in mutator.units)
    scores = {a: torch.tensor([1.0] * 4 + [9.0] * 4), b: torch.tensor([0.5] * 4 + [9.0] * 4)}
    # b's block alone leaves 24 + 32 + 8 = 64, a's alone 12 + 32 + 16 = 60, both 12 + 16 + 8 = 36
    assert widths(mutator, choose(mutator, scores, flops=62 / 104, align=4).masks) == [4, 8]
    assert widths(mutator, choose(mutator, scores, flops=50 / 104, align=4).masks) == [4, 4]
    # without blocks the least scores go, whatever is left of the budget
    chosen = choose(mutator, scores, flops=62 / 104)
    assert widths(mutator, chosen.masks)[1] == 4


def test_layers_that_lost_most_get_blocks_back():
    mutator = chain(16, 24, 16)  # 48 + 384 + 384 + 32 multiply-adds a position: 848
    # half of each, in blocks of 8: 8, 8 and 8 leave 168; 8, 16 and 8, the one of 24 having lost two thirds, 296
    assert widths(mutator, choose(mutator, flops=300 / 848, align=8, scope='layer').masks) == [8, 16, 8]
    assert widths(mutator, choose(mutator, flops=290 / 848, align=8, scope='layer').masks) == [16, 8, 8]


def test_a_unit_that_is_whole_again_is_kept_by_no_floor():
    chosen = choose(mutator := chain(20, 12, 30), flops=0.34, align=8, scope='layer')
    assert widths(mutator, chosen.masks) == [8, 12, 8]
    assert mutator.units[1].name not in chosen.kept_by_floor


def test_alignment_holds_what_does_not_fill_a_block():
    mutator = chain(16, 8)
    a, b = (unit.name for unit in mutator.units)
    chosen = choose(mutator, ratio=0.5, scope='layer', align=8)
    assert widths(mutator, chosen.masks) == [8, 8]
    assert chosen.kept_by_floor == {b: 4}  # 4 were to go, but it has one block only
    scores = {a: torch.arange(16.0), b: torch.arange(8.0)}
    chosen = choose(mutator, scores, ratio=1 / 24, align=8)
    assert widths(mutator, chosen.masks) == [8, 8]  # at least one channel, so one block
    assert chosen.kept_by_floor == {b: 7}
    # blocks of 4: a is not at its floor, so what it keeps is no floor's doing
    scores = {a: torch.tensor([0.0] * 4 + [1.0, 9.0, 9.0, 9.0] * 3), b: torch.full((8,), 3.0)}
    chosen = choose(mutator, scores, ratio=8 / 24, align=4)
    assert widths(mutator, chosen.masks) == [8, 8]
    scores[a] = torch.tensor([0.0] * 4 + [2.0] + [9.0] * 11)
    chosen = choose(mutator, scores, ratio=8 / 24, align=4)
    assert widths(mutator, chosen.masks) == [12, 4]
    assert chosen.kept_by_floor == {}


# rounds, and models that were cut before

@pytest.mark.parametrize('target', [dict(ratio=0.6), dict(ratio=0.6, scope='layer'), dict(flops=0.4),
                                    dict(params=0.4, scope='layer'), dict(levels={'*': 0.5})], ids=str)
def test_progress_in_rounds(target):
    """Each round goes its share of the way from the dense model, and what went stays gone."""
    mutator = everything()
    before, dense = None, sum(unit.width for unit in mutator.units)
    for progress in (0.0, 0.25, 0.5, 1.0):
        masks = choose(mutator, progress=progress, **target).masks
        if 'ratio' in target and 'scope' not in target:  # tied channels go in pairs
            assert 0 <= dense - sum(widths(mutator, masks)) - int(0.6 * progress * dense + 1e-9) <= 1
        for name, key in KEYS.items():
            if name in target:
                assert share_of(mutator, masks, key) <= 1 - (1 - target[name]) * progress + 1e-12
        if progress == 0:
            assert all(mask.all() for mask in masks.values())
        if before is not None:
            assert all((masks[name] <= before[name]).all() for name in masks)
        mutator.cut(masks)
        before = masks
    assert sum(widths(mutator, before)) < 0.8 * dense


@pytest.mark.parametrize('target', [dict(ratio=0.5), dict(ratio=0.5, scope='layer'), dict(flops=0.5),
                                    dict(acts=0.5, scope='layer'), dict(levels={'*': 0.5})], ids=str)
def test_shares_are_of_the_dense_model(target):
    """With the scores of the dense model, cutting in two steps is cutting in one; what is reached stays as it is."""
    dense = everything()
    scores = scores_of(dense)
    at_once = choose(dense, scores, **target).masks
    mutator = everything()
    mutator.cut(choose(mutator, scores, **{**target, **{key: value if key == 'scope' else {'*': 0.2} if key == 'levels'
                                                       else 0.2 if key == 'ratio' else 0.8
                                                       for key, value in target.items()}}).masks)
    present = {unit.name: scores[unit.name][torch.from_numpy(unit.kept)] for unit in mutator.units}
    masks = choose(mutator, present, **target).masks
    assert all((masks[name] == at_once[name]).all() for name in at_once)
    mutator.cut(masks)
    present = {unit.name: scores[unit.name][torch.from_numpy(unit.kept)] for unit in mutator.units}
    again = choose(mutator, present, **target)
    assert all((again.masks[name] == at_once[name]).all() for name in at_once)
    assert again.kept_by_floor == {}


def test_units_without_scores_stay():
    mutator = chain(8, 8)
    scores = scores_of(mutator)
    del scores[mutator.units[0].name]
    for target in (dict(ratio=0.5), dict(ratio=0.5, scope='layer'), dict(levels={'*': 0.5}), dict(flops=0.8)):
        assert widths(mutator, choose(mutator, scores, **target).masks)[0] == 8
        assert widths(mutator, choose(mutator, scores, **target).masks)[1] < 8


# what cannot be

@pytest.mark.parametrize(('target', 'message'), [
    (dict(), 'there is no target: give ratio'),
    (dict(ratio=0.5, flops=0.5), 'ratio and flops are given; a target is one of them'),
    (dict(ratio=1.0), 'ratio is 1.0; it is a share, at least 0 and less than 1'),
    (dict(flops=-0.1), 'flops is -0.1; it is a share'), (dict(params=50), 'params is 50; it is a share'),
    (dict(ratio=True), 'ratio is True; it is a share'), (dict(ratio='0.5'), "ratio is '0.5'; it is a share"),
    (dict(ratio=float('nan')), 'ratio is nan; it is a share'),
    (dict(levels={'a': 1.5}), r"levels\['a'\] is 1.5; it is a share"),
    (dict(ratio=0.5, scope='globl'), "scope is 'globl', did you mean 'global'.*; it must be one of 'global', 'layer'"),
    (dict(ratio=0.5, max_pruned_ratio=0), 'max_pruned_ratio is 0; it is the share of a unit that may go'),
    (dict(ratio=0.5, align=0), 'align is 0; it is what channels become a multiple of, a whole number from 1 to 1024'),
    (dict(ratio=0.5, align=2.0), 'align is 2.0; it is what channels become a multiple of')])
def test_targets_that_cannot_be(target, message):
    with pytest.raises(TargetError, match=message):
        PruningTarget(**target)


def test_targets_of_configs():
    assert PruningTarget.of(dict(flops=0.5), 'layer') == PruningTarget(flops=0.5, scope='layer')
    assert PruningTarget.of(dict(flops=0.5, scope='global'), 'layer') == PruningTarget(flops=0.5)
    target = PruningTarget(ratio=0.1)
    assert PruningTarget.of(target, 'layer') is target
    with pytest.raises(TargetError, match="target has no 'flop', did you mean 'flops'.*; it takes ratio, flops"):
        PruningTarget.of(dict(flop=0.5))


@pytest.mark.parametrize(('target', 'message'), [
    (dict(levels={'conv3': 0.5}), "levels: no conv or linear layer matches 'conv3', did you mean 'conv"),
    (dict(levels={'fc': 0.5}), "levels: what 'fc' produces cannot be pruned: it is an output of the model"),
    (dict(levels={'stem': 0.5}), "levels: what 'stem' produces cannot be pruned: its producer 'stem' is excluded"),
    (dict(ratio=0.5, op_types=['Linear']), 'op_types: no unit is produced by Linear only; producers are Conv2d')])
def test_patterns_that_prune_nothing(target, message):
    mutator = mutator_of(toy_nets.Residual(), exclude='stem')
    with pytest.raises(PatternError, match=message):
        choose(mutator, **target)
    if 'levels' in target:  # to keep it whole is no contradiction, where there is such a layer
        levels = dict.fromkeys(target['levels'], 0.0)
        if 'conv3' not in levels:
            assert widths(mutator, choose(mutator, levels=levels).masks) == [5]


def test_levels_of_units_that_op_types_leave_out():
    mutator = mutator_of(toy_nets.Flatten(), 6)
    with pytest.raises(PatternError, match=r"what 'fc1' produces cannot be pruned: op_types=\['Conv2d'\] leaves them"):
        choose(mutator, levels={'fc1': 0.5}, op_types=['Conv2d'])


@pytest.mark.parametrize('scope', ['layer', 'global'])
def test_a_target_out_of_reach_says_how_far_it_gets(scope):
    mutator = chain(8, 8)
    # at the floor of 4 and 4: 3 * 4 + 4 * 4 + 4 * 2 = 36 of 3 * 8 + 8 * 8 + 8 * 2 = 104 multiply-adds a position
    with pytest.raises(TargetError, match=r'flops=0.3 cannot be reached: 0.346 of the dense flops stay when every unit '
                                          r'is at its floor \(min_channels, max_pruned_ratio=0.5, align=1; 2 groups of '
                                          r'channels are frozen\). Raise the target, lower the floors'):
        choose(mutator, flops=0.3, max_pruned_ratio=0.5, scope=scope)
    assert widths(mutator, choose(mutator, flops=0.347, max_pruned_ratio=0.5, scope=scope).masks) == [4, 4]
    with pytest.raises(TargetError, match=r'frozen, 1 units have no score or are left out by op_types\)'):
        choose(mutator, {mutator.units[0].name: torch.rand(8)}, flops=0.2, scope=scope)
    with pytest.raises(TargetError, match='flops=0.5 cannot be reached'):  # what the levels keep is kept
        choose(mutator, flops=0.5, levels={'0': 0.0, '2': 0.25}, scope=scope)


@pytest.mark.parametrize('scope', ['layer', 'global'])
@pytest.mark.parametrize('target', [dict(ratio=0.5), dict(flops=0.5)], ids=str)
def test_scores_that_are_not_finite(scope, target):
    mutator = chain(8, 6)
    scores = scores_of(mutator)
    scores[mutator.units[1].name][2] = float('nan')
    with pytest.raises(NotFiniteError, match=r"the score of unit '2_\(0, 6\)_6' is NaN"):
        choose(mutator, scores, scope=scope, **target)
    scores[mutator.units[1].name][2] = float('inf')  # never goes
    assert choose(mutator, scores, scope=scope, **target).masks[mutator.units[1].name][2]
