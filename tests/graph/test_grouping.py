"""Units, worked out by hand for small nets, and for the five families of classifiers that are proven."""
import json
from pathlib import Path

import mmcls
import numpy as np
import pytest
import torch
import toy_nets
from mmengine.config import Config
from paths import CONFIGS
from torch import nn

from mmprune.graph.coupling import Components, connected_components
from mmprune.graph.grouping import build_graph
from mmprune.graph.rules.table import OP_RULES, register_op
from mmprune.registry import MODELS
from mmprune.report import proof as check
from mmprune.units import equivalence
from mmprune.units.mutator import ChannelMutator

IMAGE = "it is the model's input, or comes from an operation without channels"
OUTPUT = 'it is an output of the model'
MMCLS_CONFIGS = Path(mmcls.__file__).parent / '.mim' / 'configs'
STRUCTURES = CONFIGS / 'mmcls' / 'group_fisher'


def graph_of(net, size=6):
    return build_graph(net, lambda model: model(torch.randn(1, 3, size, size)))


def members_of(groups):
    """Return name -> {(tensor, axis): [classes, k] indices}."""
    return {group.name: {(member.axis.tensor, member.axis.dim): member.index.tolist() for member in group.members}
            for group in groups}


def reasons_of(groups):
    return {group.name: group.reason for group in groups}


def span(start, count):
    return [[start + c] for c in range(count)]


def norm(name, index):
    return {(f'{name}.{tensor}', 0): index for tensor in ('running_mean', 'running_var', 'weight', 'bias')}


def layer(name, index):
    """Rows and bias of a layer."""
    return {(f'{name}.weight', 0): index, (f'{name}.bias', 0): index}


def test_residual_add_couples_its_producers():
    graph = graph_of(toy_nets.Residual())
    assert members_of(graph.units) == {
        'stem_(0, 6)_6': {**layer('stem', span(0, 6)), **norm('bn0', span(0, 6)), ('conv1.weight', 1): span(0, 6),
                          ('conv2.weight', 0): span(0, 6), **norm('bn2', span(0, 6)), ('fc.weight', 1): span(0, 6)},
        'conv1_(0, 5)_5': {('conv1.weight', 0): span(0, 5), **norm('bn1', span(0, 5)),
                           ('conv2.weight', 1): span(0, 5)}}
    assert [m.axis.layer for m in graph.units[0].producers] == ['stem', 'conv2']
    assert [m.axis.layer for m in graph.units[0].consumers] == ['conv1', 'fc']
    assert reasons_of(graph.frozen) == {'stem_(0, 3)_3': IMAGE, 'fc_(0, 4)_4': OUTPUT}


def test_consumers_of_a_concat_own_slices():
    graph = graph_of(toy_nets.Concat())
    assert members_of(graph.units) == {
        'a_(0, 4)_4': {**layer('a', span(0, 4)), **norm('bn', span(0, 4)), ('c.weight', 1): span(0, 4),
                       ('e.weight', 1): span(6, 4)},
        'b_(0, 5)_5': {**layer('b', span(0, 5)), **norm('bn', span(4, 5)), ('c.weight', 1): span(4, 5),
                       ('d.weight', 1): span(0, 5)},
        'c_(0, 6)_6': {**layer('c', span(0, 6)), **layer('d', span(0, 6)), ('e.weight', 1): span(0, 6)}}


def test_depthwise_convs_follow_their_input():
    pairs = [[0, 1], [2, 3], [4, 5], [6, 7]]
    graph = graph_of(toy_nets.Depthwise())
    assert members_of(graph.units) == {
        'stem_(0, 4)_4': {**layer('stem', span(0, 4)), **norm('bn0', span(0, 4)), **layer('dw1', span(0, 4)),
                          ('dw2.weight', 0): pairs, **norm('bn2', pairs), ('pw.weight', 1): pairs},
        'pw_(0, 5)_5': {**layer('pw', span(0, 5)), ('fc.weight', 1): span(0, 5)}}
    assert [m.axis.layer for m in graph.units[0].producers] == ['stem', 'dw1', 'dw2']
    assert [m.axis.layer for m in graph.units[0].consumers] == ['dw1', 'dw2', 'pw']
    assert graph.units[0].width == graph.units[0].num_sets == 4


def test_grouped_conv_ties_a_position_of_all_its_groups():
    graph = graph_of(toy_nets.Grouped())
    ins, outs = [[0, 3], [1, 4], [2, 5]], [[0, 2], [1, 3]]
    assert members_of(graph.units) == {
        'stem_(0, 6)_6': {**layer('stem', ins), **norm('bn', ins), ('g.weight', 1): span(0, 3)},
        'g_(0, 4)_4': {**layer('g', outs), ('head.weight', 1): outs}}
    assert [(unit.width, unit.num_sets) for unit in graph.units] == [(6, 3), (4, 2)]


def test_shared_conv_is_one_member_and_three_calls():
    graph = graph_of(toy_nets.Shared())
    assert members_of(graph.units) == {
        'stem_(0, 5)_5': {**layer('stem', span(0, 5)), **layer('conv', span(0, 5)), ('conv.weight', 1): span(0, 5),
                          ('fc.weight', 1): span(0, 5)}}
    calls = [(call.layer, call.kind, call.positions, call.out_positions) for call in graph.calls]
    assert calls == [('stem', 'conv', 36, 36), ('conv', 'conv', 36, 36), ('conv', 'conv', 36, 36),
                     ('conv', 'conv', 9, 9), ('fc', 'linear', 1, 1)]


def test_head_on_two_levels_couples_them():
    graph = graph_of(toy_nets.SharedHead())
    assert members_of(graph.units) == {
        'low_(0, 4)_4': {**layer('low', span(0, 4)), ('tower.weight', 1): span(0, 4), **layer('high', span(0, 4))},
        'tower_(0, 6)_6': {**layer('tower', span(0, 6)), ('cls.weight', 1): span(0, 6)}}


def test_flatten_gives_a_channel_all_its_positions():
    graph = graph_of(toy_nets.Flatten())
    positions = [list(range(9 * c, 9 * c + 9)) for c in range(4)]
    assert members_of(graph.units) == {
        'conv_(0, 4)_4': {**layer('conv', span(0, 4)), **norm('bn', span(0, 4)), ('fc1.weight', 1): positions},
        'fc1_(0, 7)_7': {**layer('fc1', span(0, 7)), ('fc2.weight', 1): span(0, 7)}}


def test_linear_layers_on_tokens_own_the_last_axis():
    graph = graph_of(toy_nets.Tokens())
    assert members_of(graph.units) == {
        'embed_(0, 6)_6': {**layer('embed', span(0, 6)), ('fc1.weight', 1): span(0, 6), **layer('fc2', span(0, 6)),
                           ('head.weight', 1): span(0, 6)},
        'fc1_(0, 8)_8': {**layer('fc1', span(0, 8)), ('fc2.weight', 1): span(0, 8)}}


class ChunkAdd(nn.Module):
    """The halves of ``a`` are added, and the sum concatenated with ``b``."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        left, right = self.a(x).chunk(2, 1)
        return self.head(torch.cat([left + right, self.b(x)], 1))


def test_chunk_and_add_tie_the_halves():
    halves = [[0, 3], [1, 4], [2, 5]]
    assert members_of(graph_of(ChunkAdd()).units) == {
        'a_(0, 6)_6': {**layer('a', halves), ('head.weight', 1): span(0, 3)},
        'b_(0, 2)_2': {**layer('b', span(0, 2)), ('head.weight', 1): span(3, 2)}}


class Shuffle(nn.Module):
    """Channel shuffle of 8 in two groups, ``0 4 1 5 2 6 3 7``; each half has a reader of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.a(x)
        x = x.view(len(x), 2, x.size(1) // 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        left, right = x.chunk(2, 1)
        return self.left(left), self.right(right)


def test_shuffle_ties_positions_of_its_groups_and_chunk_those_of_its_halves():
    # the shuffle ties c and c + 4; the halves 0 4 1 5 and 2 6 3 7 then tie 0 and 2, 1 and 3
    assert members_of(graph_of(Shuffle()).units) == {
        'a_(0, 8)_8': {**layer('a', [[0, 2, 4, 6], [1, 3, 5, 7]]), ('left.weight', 1): [[0, 1], [2, 3]],
                       ('right.weight', 1): [[0, 1], [2, 3]]}}


class Interleaved(nn.Module):
    """Two groups read ``a + [b, c]``: position 0 of both is ``a0 b0``, ``a2 c1``; position 1 ``a1 c0``, ``a3 c2``."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 1, 1), nn.Conv2d(3, 3, 1)
        self.g, self.head = nn.Conv2d(4, 2, 1, groups=2), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        return self.head(self.g(self.a(x) + torch.cat([self.b(x), self.c(x)], 1)))


def test_units_that_interleave_on_a_producer_share_a_range_and_get_suffixes():
    assert {channels.name: members_of([channels])[channels.name]
            for channels in [*graph_of(Interleaved()).units, *graph_of(Interleaved()).frozen]
            if channels.name.startswith('a_(0, 4)')} == {
        'a_(0, 4)_2': {**layer('a', [[0, 2]]), **layer('b', [[0]]), **layer('c', [[1]]), ('g.weight', 1): [[0]]},
        'a_(0, 4)_2#2': {**layer('a', [[1, 3]]), **layer('c', [[0, 2]]), ('g.weight', 1): [[1]]}}


class SplitConv(nn.Module):
    """Both halves of ``a`` have their own reader, without any shuffle."""

    def __init__(self):
        super().__init__()
        self.a, self.left, self.right = nn.Conv2d(3, 7, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        left, right = self.a(x).split([3, 4], 1)
        return self.left(left), self.right(right)


def test_units_side_by_side_on_a_producer_are_named_by_their_ranges():
    assert members_of(graph_of(SplitConv()).units) == {
        'a_(0, 3)_3': {**layer('a', span(0, 3)), ('left.weight', 1): span(0, 3)},
        'a_(3, 7)_4': {**layer('a', span(3, 4)), ('right.weight', 1): span(0, 4)}}


class SpatialGate(nn.Module):
    """All channels of ``a`` are multiplied by one map."""

    def __init__(self):
        super().__init__()
        self.a, self.gate, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return self.head(x * torch.sigmoid(self.gate(x)))


def test_map_that_is_broadcast_over_channels_freezes_itself_only():
    graph = graph_of(SpatialGate())
    assert members_of(graph.units) == {
        'a_(0, 4)_4': {**layer('a', span(0, 4)), ('gate.weight', 1): span(0, 4), ('head.weight', 1): span(0, 4)}}
    assert reasons_of(graph.frozen) == {
        'a_(0, 3)_3': IMAGE, 'gate_(0, 1)_1': 'mul broadcasts it over the channels of another map in the model',
        'head_(0, 2)_2': OUTPUT}


class EmptyCache(nn.Module):
    """Joins a tensor with one that has no axes yet, as a cache of keys before its first token."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.b(torch.cat([torch.tensor([]), self.a(x)], -2))


def test_what_is_joined_with_an_empty_tensor_keeps_its_channels():
    assert members_of(graph_of(EmptyCache()).units) == {
        'a_(0, 4)_4': {**layer('a', span(0, 4)), ('b.weight', 1): span(0, 4)}}


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.a, self.down, self.up, self.head = (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1),
                                                 nn.Conv2d(4, 2, 1))

    def forward(self, x):
        x = self.a(x)
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(x * gate)


def test_squeeze_and_excitation_couples_the_gate():
    assert members_of(graph_of(Gate()).units) == {
        'a_(0, 4)_4': {**layer('a', span(0, 4)), ('down.weight', 1): span(0, 4), **layer('up', span(0, 4)),
                       ('head.weight', 1): span(0, 4)},
        'down_(0, 2)_2': {**layer('down', span(0, 2)), ('up.weight', 1): span(0, 2)}}


class Norms(nn.Module):
    """A layer norm behind ``a`` and a group norm behind ``b``, each in a module of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.layer_norm = nn.Conv2d(3, 4, 1), nn.LayerNorm(4)
        self.b, self.group_norm = nn.Conv2d(4, 6, 1), nn.GroupNorm(2, 6)
        self.c, self.head = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = self.layer_norm(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(self.c(self.group_norm(self.b(x))))


def test_layer_norm_freezes_with_operation_and_module_and_group_norm_goes_in_groups():
    graph = graph_of(Norms())
    halves = [[0, 1, 2], [3, 4, 5]]  # a group goes as a whole
    assert members_of(graph.units) == {
        'b_(0, 6)_6': {**layer('b', halves), ('group_norm.weight', 0): halves, ('group_norm.bias', 0): halves,
                       ('c.weight', 1): halves},
        'c_(0, 5)_5': {**layer('c', span(0, 5)), ('head.weight', 1): span(0, 5)}}
    assert reasons_of(graph.frozen) == {
        'a_(0, 3)_3': IMAGE, 'a_(0, 4)_4': "layer_norm normalises across channels in module 'layer_norm'",
        'head_(0, 2)_2': OUTPUT}


class CumulativeProduct(nn.Module):
    def forward(self, x):
        return torch.cumprod(x, 1)


def unknown_op_net():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), CumulativeProduct(), nn.Conv2d(5, 2, 1))


def test_operation_without_a_rule_freezes_what_it_touches_and_says_so():
    graph = graph_of(unknown_op_net())
    assert members_of(graph.units) == {'0_(0, 4)_4': {**layer('0', span(0, 4)), ('1.weight', 1): span(0, 4)}}
    assert reasons_of(graph.frozen)['1_(0, 5)_5'] == \
        "cumprod has no channel rule (add one with mmprune.register_op) in module '2'"


def test_a_registered_rule_lets_the_operation_prune(monkeypatch):
    monkeypatch.setitem(OP_RULES, 'cumprod', None)  # restored after the test

    @register_op('cumprod')
    def rule(tracer, call):
        tracer.set_labels(call.out, tracer.labels_of(call.args[0]))

    assert [unit.name for unit in graph_of(unknown_op_net()).units] == ['0_(0, 4)_4', '1_(0, 5)_5']


class DeadEnd(nn.Module):
    """The output is ``a`` itself; ``dead`` is computed and thrown away."""

    def __init__(self):
        super().__init__()
        self.a, self.dead = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.a(x)
        self.dead(x)
        return {'out': [x]}


def test_outputs_in_a_nest_and_channels_without_a_reader_stay():
    graph = graph_of(DeadEnd())
    assert graph.units == []
    assert reasons_of(graph.frozen) == {'a_(0, 3)_3': IMAGE, 'a_(0, 4)_4': OUTPUT,
                                        'dead_(0, 2)_2': 'no conv or linear layer reads it'}


def test_tracing_changes_neither_model_nor_training_flags():
    net = toy_nets.Residual()
    net.bn1.eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    graph_of(net)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [name for name, module in net.named_modules() if not module.training] == ['bn1']
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_linear_layers_are_not_pruned_unless_asked():
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 6, 6)))
    mutator.prepare(toy_nets.Residual())
    assert mutator.structure == {'conv1_(0, 5)_5': 5}
    assert {channels.name: channels.reason for channels in mutator.frozen}['stem_(0, 6)_6'] == \
        "linear layer 'fc' is coupled to it (mutate_linear=True prunes it)"


TOYS = ('Residual', 'Concat', 'Depthwise', 'Grouped', 'Shared', 'SharedHead', 'Flatten', 'Tokens', 'TwoBatches',
        'Optional', 'Everything')


@pytest.mark.parametrize('net', [*(getattr(toy_nets, name) for name in TOYS), ChunkAdd, SpatialGate, Gate, Norms],
                         ids=lambda net: net.__name__)
def test_masked_dense_toy_net_equals_the_cut_one(net):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True), dict(
        type='DemoInput', input_shape=(2, 3, 8, 8) if net is toy_nets.Everything else (2, 3, 6, 6)))
    mutator.prepare(net())
    result = check.verify(mutator, ratio=0.5, seeds=3)
    print(f'{net.__name__}: {result["max_relative_difference"]:.2e} over {result["units"]} units')
    assert result['max_relative_difference'] < 1e-12


# families


def mmcls_model(config, size, batch=1, mutate_linear=False):
    """Build the model of an installed mmcls config with its units; return the mutator."""
    model = dict(Config.fromfile(MMCLS_CONFIGS / f'{config}.py').model, _scope_='mmcls')
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=mutate_linear),
                             dict(type='DemoInput', input_shape=(batch, 3, size, size)))
    mutator.prepare(MODELS.build(model))
    return mutator


RESNET50, MOBILENET = 'resnet/resnet50_8xb32_in1k', 'mobilenet_v2/mobilenet-v2_8xb32_in1k'


@pytest.mark.parametrize(('config', 'size', 'seeds', 'units'), [
    # stem, two inner convs of 16 blocks, the outputs of three stages; the fourth is read by the linear layer
    (RESNET50, 64, 2, 1 + 2 * 16 + 3), ('resnext/resnext50-32x4d_8xb32_in1k', 64, 2, 1 + 2 * 16 + 3),
    (MOBILENET, 64, 2, 1 + 16 + 7),  # stem, 16 expansions, the outputs of 7 stages; conv2 is read by the linear layer
    ('vgg/vgg16bn_8xb32_in1k', 224, 1, 12),  # all but the last of 13 convs, which is flattened into a linear layer
    # stem, two convs of 58 layers, 3 transitions; less the last transition and 16 layers that the linear layer reads
    ('densenet/densenet121_4xb256_in1k', 64, 2, 1 + 2 * 58 + 3 - 17)])
def test_masked_dense_family_equals_the_cut_one(config, size, seeds, units):
    """Batch 2. Of 64 px the last map is 2x2: batch norm of two values in train mode would amplify rounding."""
    mutator = mmcls_model(config, size, batch=2)
    result = check.verify(mutator, ratio=0.5, seeds=seeds)
    print(f'{config}: {result["max_relative_difference"]:.2e} over {result["units"]} units')
    assert result['units'] == units
    assert result['max_relative_difference'] < 1e-10


def test_masked_dense_equals_cut_with_linear_layers():
    mutator = mmcls_model(MOBILENET, 64, batch=2, mutate_linear=True)
    result = check.verify(mutator, ratio=0.5, seeds=1)
    assert result['units'] == 1 + 16 + 7 + 1
    assert result['max_relative_difference'] < 1e-10


def test_verify_sees_a_wrong_cut(monkeypatch):
    """The proof itself can fail: a unit that forgets one of its members is found out."""
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(2, 3, 6, 6)))
    mutator.prepare(toy_nets.Concat())
    assert check.verify(mutator, seeds=1)['max_relative_difference'] < 1e-12
    columns = next(m for m in mutator.units[0].channels.members if m.axis.tensor == 'e.weight')
    columns.index[:] = columns.index[::-1].copy()
    assert check.verify(mutator, seeds=1)['max_relative_difference'] > 1e-3


PUBLISHED = {  # dense macs, dense params, pruned macs, pruned params
    'mobilenet/group_fisher_act_mobilenet-v2_8xb32_in1k': (300774272, 3504872, 200469704, 3176537),
    'mobilenet/group_fisher_flops_mobilenet-v2_8xb32_in1k': (300774272, 3504872, 198986131, 2815111),
    'resnet50/group_fisher_act_resnet50_8xb32_in1k': (4089184256, 25557032, 2041012627, 16263012),
    'resnet50/group_fisher_flops_resnet50_8xb32_in1k': (4089184256, 25557032, 2040924623, 16262778)}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_structures_have_our_units_and_the_published_costs(name):
    structure = json.loads((STRUCTURES / f'{name}.json').read_text())
    mutator = mmcls_model(RESNET50 if 'resnet50' in name else MOBILENET, 224)
    assert list(mutator.structure) == list(structure)  # names, and their order
    dense = mutator.cost
    mutator.apply_structure(structure)
    assert mutator.structure == structure
    pruned = mutator.cost
    assert (dense['macs'], dense['params'], pruned['macs'], pruned['params']) == PUBLISHED[name]
    assert sum(p.numel() for p in mutator.model.parameters()) == pruned['params']


def count_by_hooks(mutator):
    """Run the model and count what its conv and linear layers really do."""
    counted = dict(macs=0, acts=0)

    def count(module, args, out):
        counted['acts'] += out.numel()
        counted['macs'] += out.numel() * module.weight[0].numel()  # each output element: one weight row

    handles = [module.register_forward_hook(count) for module in mutator.model.modules()
               if isinstance(module, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        mutator.demo_input(mutator.model.eval())
    for handle in handles:
        handle.remove()
    return dict(counted, params=sum(parameter.numel() for parameter in mutator.model.parameters()))


@pytest.mark.parametrize('config', [RESNET50, MOBILENET])
def test_cost_of_20_random_structures_equals_counting_on_the_cut_model(config):
    mutator = mmcls_model(config, 64)
    random = np.random.RandomState(0)
    dense, ratios = mutator.cost, []
    assert count_by_hooks(mutator) == dense
    for _ in range(20):
        mutator.apply_structure({unit.name: random.randint(1, unit.width + 1) for unit in mutator.units})
        assert mutator.cost == count_by_hooks(mutator)
        ratios.append(mutator.cost['macs'] / dense['macs'])
    print(f'{config}: ratios from {min(ratios):.3f} to {max(ratios):.3f}')
    assert min(ratios) < 0.3 < max(ratios)


@pytest.mark.parametrize('net', [toy_nets.Grouped, toy_nets.Depthwise, toy_nets.Shared, toy_nets.Concat])
def test_cost_of_toy_nets_equals_counting_on_the_cut_model(net):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, 6, 6)))
    mutator.prepare(net())
    for seed in range(5):
        assert mutator.cost == count_by_hooks(mutator)
        mutator.cut(equivalence.random_masks(mutator.units, 0.2 + 0.15 * seed, seed))


def test_cost_by_hand():
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 6, 6)))
    mutator.prepare(toy_nets.Residual())
    macs = 36 * 9 * 3 * 6 + 36 * 9 * 6 * 5 + 36 * 9 * 5 * 6 + 6 * 4
    params = (162 + 6) + 12 + 270 + 10 + 270 + 12 + (24 + 4)
    assert mutator.cost == dict(macs=macs, params=params, acts=36 * 6 + 36 * 5 + 36 * 6 + 4)
    mutator.apply_structure({'conv1_(0, 5)_5': 2})
    assert mutator.cost == dict(macs=macs - 2 * 36 * 9 * 6 * 3, params=params - 3 * (54 + 2 + 54),
                                acts=36 * 6 + 36 * 2 + 36 * 6 + 4)


@pytest.mark.full
def test_mmpretrain_models_have_the_same_units():
    pytest.importorskip('mmpretrain')
    from mmpretrain import get_model
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 64, 64)))
    mutator.prepare(get_model('resnet50_8xb32_in1k'))
    published = STRUCTURES / 'resnet50/group_fisher_act_resnet50_8xb32_in1k.json'
    assert list(mutator.structure) == list(json.loads(published.read_text()))


def test_components_are_those_of_their_ties_whatever_the_order():
    random = np.random.RandomState(0)
    for _ in range(20):
        pairs = random.randint(0, 40, size=(6, 2, 5))
        components = Components(40)
        changes = [components.merge(left, right) for left, right in pairs]
        wanted = connected_components(40, *np.concatenate(pairs, axis=1))
        assert np.array_equal(components.of(np.arange(40)), wanted)
        assert changes[0]
        assert not components.merge(*pairs[0])
