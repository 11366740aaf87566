"""Which units a user lets be pruned: include, exclude, min_channels."""
import pytest
import torch
import toy_nets
from mmengine.optim import OptimWrapper
from torch import nn

from mmprune.arguments import UserError
from mmprune.config import deploy_model, prune_settings
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.registry import MODELS
from mmprune.units.choice import Choice, PatternError, matches
from mmprune.units.mutator import ChannelMutator, NoPrunableUnitError

DEMO = dict(type='DemoInput', input_shape=(2, 3, 8, 8))


class TwoParts(nn.Module):
    """A backbone of two stages and a head of its own."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1))
        self.neck, self.head = nn.Conv2d(12, 10, 1), nn.Conv2d(10, 2, 1)

    def forward(self, x):
        return self.head(self.neck(self.backbone(x)))


BACKBONE = ['backbone.0_(0, 8)_8', 'backbone.1_(0, 12)_12']
NECK = ['neck_(0, 10)_10']


def mutator_of(net=None, **choice):
    mutator = ChannelMutator(dict(type='ChannelUnit'), DEMO, **choice)
    mutator.prepare(net or TwoParts())
    return mutator


def names(mutator):
    return [unit.name for unit in mutator.units]


@pytest.mark.parametrize(('layer', 'pattern', 'expected'), [
    ('backbone.layer1.0.conv1', 'backbone.layer1.0.conv1', True), ('backbone.layer1.0.conv1', 'backbone.layer1', True),
    ('backbone.layer1.0.conv1', 'backbone.*.conv1', True), ('backbone.layer1.0.conv1', '*.conv1', True),
    ('backbone.layer1.0.conv1', 'layer1', False), ('backbone.layer11.0', 'backbone.layer1', False),
    ('backbone.layer1.0.conv1', 'backbone.layer?', True), ('head', '*', True)])
def test_a_pattern_matches_a_layer_or_a_module_around_it(layer, pattern, expected):
    assert matches(layer, pattern) is expected


@pytest.mark.parametrize(('choice', 'expected'), [
    (dict(), BACKBONE + NECK), (dict(include='backbone'), BACKBONE), (dict(include=['backbone.1', 'neck']),
                                                                      BACKBONE[1:] + NECK),
    (dict(exclude='backbone'), NECK), (dict(include='backbone.*', exclude=['*.0']), BACKBONE[1:])])
def test_units_that_are_chosen(choice, expected):
    assert names(mutator_of(**choice)) == expected


def test_units_that_are_not_chosen_say_so():
    reasons = {channels.name: channels.reason
               for channels in mutator_of(include='backbone', exclude='backbone.1').frozen}
    assert reasons[NECK[0]] == "its producer 'neck' is not among those to prune (include=['backbone'])"
    assert reasons[BACKBONE[1]] == "its producer 'backbone.1' is excluded (exclude='backbone.1')"


def test_a_unit_with_producers_inside_and_outside_stays():
    net = toy_nets.Residual()  # stem and conv2 are added
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True), DEMO, include='stem')
    with pytest.raises(NoPrunableUnitError, match=r"stem_\(0, 6\)_6: its producer 'conv2' is not among those to prune"):
        mutator.prepare(net)


def test_unknown_pattern_lists_near_names():
    with pytest.raises(PatternError) as error:
        mutator_of(exclude=['neck', 'backbon'])
    assert str(error.value) == (
        "exclude: no conv or linear layer matches 'backbon', did you mean 'backbone' or 'backbone.1'? (patterns are "
        'names of modules, with * for anything, such as "backbone.layer1" or "*.downsample")')
    with pytest.raises(PatternError, match="include: no conv or linear layer matches 'stages'"):
        mutator_of(include='stages')
    with pytest.raises(PatternError, match="min_channels: no conv or linear layer matches 'heat', did you mean 'head'"):
        mutator_of(min_channels={'heat': 4})


@pytest.mark.parametrize('floor', [0, -1, 0.0, 1.0, 1.5, -0.1, float('nan'), True, '8', None])
def test_min_channels_must_be_a_positive_whole_number_or_a_share(floor):
    with pytest.raises(UserError) as error:
        Choice(min_channels={'backbone': floor})
    assert str(error.value) == (f"min_channels of 'backbone' is {floor!r}; it must be a whole number of channels of 1 "
                                'or more, or a share of them between 0 and 1')


def test_min_channels_by_pattern_hold_in_a_prune_run():
    torch.manual_seed(0)
    net = toy_nets.ToyClassifier(nn.Sequential(TwoParts(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    algorithm = GroupFisherAlgorithm(net, dict(
        type='GroupFisherChannelMutator', demo_input=DEMO,
        min_channels={'*': 2, 'net.0.backbone.0': 5, 'net.0.backbone': 4},
        channel_unit_cfg=dict(type='GroupFisherChannelUnit', normalization_type='none')))
    wrapper = OptimWrapper(torch.optim.SGD(algorithm.parameters(), lr=0.01))
    data = dict(inputs=torch.randn(4, 3, 8, 8), data_samples=torch.randint(0, 2, (4,)))
    for _ in range(40):
        algorithm.train_step(data, wrapper)
    assert list(algorithm.mutator.structure.values()) == [5, 4, 2]
    assert algorithm.mutator.least_important() == []


def test_floor_of_tied_channels_is_rounded_up():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 2, 1))
    mutator = mutator_of(net, min_channels=5)
    assert [(unit.multiplicity, unit.min_sets) for unit in mutator.units] == [(4, 2), (4, 2)]


@pytest.mark.parametrize(('floor', 'least'), [
    (0.1, [1, 2, 1]), (0.25, [2, 3, 3]), (0.5, [4, 6, 5]), (0.3, [3, 4, 3]), (3, [3, 3, 3]), (0.999, [8, 12, 10]),
    ({'backbone.1': 0.5, '*': 2}, [2, 6, 2]), ({'backbone': 0.5, 'backbone.1': 8}, [4, 8, 1])])
def test_floor_as_a_share_of_the_dense_unit(floor, least):
    """Of 8, 12 and 10 channels, rounded up; it stays the same when the unit shrinks."""
    mutator = mutator_of(min_channels=floor)
    assert [unit.min_sets for unit in mutator.units] == least
    mutator.apply_structure({unit.name: unit.min_sets for unit in mutator.units})
    assert [unit.num_sets for unit in mutator.units] == [unit.min_sets for unit in mutator.units]


def test_share_that_is_a_whole_number_of_channels_is_not_rounded_up():
    net = nn.Sequential(nn.Conv2d(3, 100, 1), nn.Conv2d(100, 2, 1))
    assert 0.07 * 100 > 7  # in floating point
    assert mutator_of(net, min_channels=0.07).units[0].min_sets == 7


def test_choice_in_configs():
    base = dict(model=dict(type='Net'), default_scope='mmcls', optim_wrapper=dict(optimizer=dict(lr=0.1)))
    choice = dict(include='backbone', min_channels=4)
    model, *_ = prune_settings(base, 'a.pth', 1, 'act', 0.1, 0.5, (1, 3, 8, 8), choice=choice)
    assert (model['mutator']['include'], model['mutator']['min_channels']) == ('backbone', 4)
    deploy = deploy_model(base, {BACKBONE[0]: 4}, choice=choice)
    assert deploy['include'] == 'backbone'
    assert 'min_channels' not in deploy


def test_deploy_model_of_a_part():
    part = GroupFisherDeploySubModel(TwoParts(), {BACKBONE[0]: 4, BACKBONE[1]: 6}, demo_input=DEMO, include='backbone')
    assert part.neck.weight.shape[:2] == (10, 6)
    assert MODELS.get('GroupFisherDeploySubModel') is GroupFisherDeploySubModel
