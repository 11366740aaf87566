"""Group Fisher scores on the structures of detectors and pose estimators, by brute force in float64.

Units, the batch that a consumer reads and the costs are written by hand; see :mod:`brute_force`.
"""
import copy

import detection_nets
import pytest
import torch
import toy_nets
from brute_force import BruteForce, iterate, worst_of
from hand_units import Unit, blocks, span, strided

from mmprune.registry import MODELS, build
from mmprune.units.attention.taking_over import forward_for, take_over

full = pytest.mark.full

# Images of 16x16 have 256 positions, 64 at half size, 16, 4. A 3x3 kernel has 9 elements.
UNITS = {
    'Pyramid': {
        'c3_(0, 6)_6': Unit({'c3': span(0, 6)}, {'c4': span(0, 6), 'l3': span(0, 6)},
                            act=64, flops=lambda k: 64 * 9 * 3 + 16 * 9 * 7 + 64 * 5),
        'c4_(0, 7)_7': Unit({'c4': span(0, 7)}, {'l4': span(0, 7)}, act=16, flops=lambda k: 16 * 9 * 6 + 16 * 5),
        'l4_(0, 5)_5': Unit({'l4': span(0, 5), 'l3': span(0, 5)}, {'f3': span(0, 5), 'f4': span(0, 5)},
                            act=16 + 64, flops=lambda k: 16 * 7 + 64 * 6 + (64 + 16) * 9 * 4),
        'f3_(0, 4)_4': Unit({'f3': span(0, 4), 'f4': span(0, 4)}, {'tower': span(0, 4)},
                            act=64 + 16, flops=lambda k: (64 + 16) * 9 * 5 + (64 + 16) * 9 * 6),
        'tower_(0, 6)_6': Unit({'tower': span(0, 6)}, {'cls': span(0, 6)},
                               act=64 + 16, flops=lambda k: (64 + 16) * 9 * 4 + (64 + 16) * 2)},
    'CrossStage': {
        'stem_(0, 6)_6': Unit({'stem': span(0, 6)}, {'main': span(0, 6), 'short': span(0, 6)},
                              act=256, flops=lambda k: 256 * 9 * 3 + 256 * 4 + 256 * 5),
        'main_(0, 4)_4': Unit({'main': span(0, 4), 'conv2': span(0, 4)}, {'conv1': span(0, 4), 'final': span(0, 4)},
                              act=2 * 256, flops=lambda k: 256 * 6 + 256 * 9 * 3 + 256 * 3 + 256 * 8),
        'short_(0, 5)_5': Unit({'short': span(0, 5)}, {'final': span(4, 5)}, act=256,
                               flops=lambda k: 256 * 6 + 256 * 8),
        'conv1_(0, 3)_3': Unit({'conv1': span(0, 3)}, {'conv2': span(0, 3)}, act=256,
                               flops=lambda k: 256 * 4 + 256 * 9 * 4),
        'final_(0, 8)_8': Unit({'final': span(0, 8)}, {'head': span(0, 8)}, act=256,
                               flops=lambda k: 256 * 9 + 256 * 3)},
    'Regions': {  # traced with three regions; 20 columns are 5 channels at 4 positions
        'stem_(0, 5)_5': Unit({'stem': span(0, 5)}, {'rpn': span(0, 5), 'fc1': blocks(5, 4), 'fc3': blocks(5, 4)},
                              act=256, flops=lambda k: 256 * 9 * 3 + 256 * 9 * 4 + 3 * 4 * 7 + 3 * 4 * 2),
        'rpn_(0, 4)_4': Unit({'rpn': span(0, 4)}, {'out': span(0, 4)}, act=256, flops=lambda k: 256 * 9 * 5 + 256 * 2),
        'fc1_(0, 7)_7': Unit({'fc1': span(0, 7)}, {'fc2': span(0, 7)}, act=3, flops=lambda k: 3 * 20 + 3 * 3)},
    'RetinaNet': {
        'c3_(0, 6)_6': Unit({'c3': span(0, 6)}, {'c4': span(0, 6), 'neck.lateral_convs.0.conv': span(0, 6)},
                            act=64, flops=lambda k: 64 * 9 * 3 + 16 * 9 * 7 + 64 * 5),
        'c4_(0, 7)_7': Unit({'c4': span(0, 7)}, {'neck.lateral_convs.1.conv': span(0, 7)},
                            act=16, flops=lambda k: 16 * 9 * 6 + 16 * 5),
        'neck.lateral_convs.0.conv_(0, 5)_5': Unit(
            {f'neck.lateral_convs.{level}.conv': span(0, 5) for level in (0, 1)},
            {f'neck.fpn_convs.{level}.conv': span(0, 5) for level in (0, 1)},
            act=64 + 16, flops=lambda k: 64 * 6 + 16 * 7 + (64 + 16) * 9 * 5),
        'neck.fpn_convs.0.conv_(0, 5)_5': Unit(
            {f'neck.fpn_convs.{level}.conv': span(0, 5) for level in (0, 1, 2)},
            {'neck.fpn_convs.2.conv': span(0, 5), 'head.cls_convs.0.conv': span(0, 5),
             'head.reg_convs.0.conv': span(0, 5)},
            act=64 + 16 + 4, flops=lambda k: (64 + 16 + 4) * 9 * 5 + 4 * 9 * 5 + 2 * (64 + 16 + 4) * 9 * 4),
        'head.cls_convs.0.conv_(0, 4)_4': Unit({'head.cls_convs.0.conv': span(0, 4)}, {'head.retina_cls': span(0, 4)},
                                               act=84, flops=lambda k: 84 * 9 * 5 + 84 * 9 * 9 * 2),
        'head.reg_convs.0.conv_(0, 4)_4': Unit({'head.reg_convs.0.conv': span(0, 4)}, {'head.retina_reg': span(0, 4)},
                                               act=84, flops=lambda k: 84 * 9 * 5 + 84 * 9 * 9 * 4)},
    'CSPNet': {  # the short half comes second in the concat
        'stem_(0, 6)_6': Unit({'stem': span(0, 6)},
                              {'csp.short_conv.conv': span(0, 6), 'csp.main_conv.conv': span(0, 6)}, act=256,
                              flops=lambda k: 256 * 9 * 3 + 256 * 4 + 256 * 4),
        'csp.short_conv.conv_(0, 4)_4': Unit({'csp.short_conv.conv': span(0, 4)}, {'csp.final_conv.conv': span(4, 4)},
                                             act=256, flops=lambda k: 256 * 6 + 256 * 8),
        'csp.main_conv.conv_(0, 4)_4': Unit(
            {'csp.main_conv.conv': span(0, 4), 'csp.blocks.0.conv2.conv': span(0, 4)},
            {'csp.blocks.0.conv1.conv': span(0, 4), 'csp.final_conv.conv': span(0, 4)},
            act=2 * 256, flops=lambda k: 256 * 6 + 256 * 9 * 4 + 256 * 4 + 256 * 8),
        'csp.blocks.0.conv1.conv_(0, 4)_4': Unit(
            {'csp.blocks.0.conv1.conv': span(0, 4)}, {'csp.blocks.0.conv2.conv': span(0, 4)},
            act=256, flops=lambda k: 256 * 4 + 256 * 9 * 4),
        'csp.final_conv.conv_(0, 8)_8': Unit({'csp.final_conv.conv': span(0, 8)}, {'head': span(0, 8)},
                                             act=256, flops=lambda k: 256 * 8 + 256 * 3)},
    'RCNN': {  # traced with four regions of 3x3
        'stem_(0, 6)_6': Unit({'stem': span(0, 6)}, {'p1': span(0, 6), 'p2': span(0, 6)},
                              act=256, flops=lambda k: 256 * 9 * 3 + (256 + 64) * 9 * 5),
        'p1_(0, 5)_5': Unit({'p1': span(0, 5), 'p2': span(0, 5)}, {'rpn': span(0, 5), 'box.shared_fcs.0': blocks(5, 9)},
                            act=256 + 64, flops=lambda k: (256 + 64) * 9 * 6 + (256 + 64) * 9 * 4 + 4 * 9 * 7),
        'rpn_(0, 4)_4': Unit({'rpn': span(0, 4)}, {'rpn_cls': span(0, 4)},
                             act=256 + 64, flops=lambda k: (256 + 64) * 9 * 5 + (256 + 64) * 2),
        'box.shared_fcs.0_(0, 7)_7': Unit({'box.shared_fcs.0': span(0, 7)}, {'box.shared_fcs.1': span(0, 7)},
                                          act=4, flops=lambda k: 4 * 45 + 4 * 7),
        'box.shared_fcs.1_(0, 7)_7': Unit(
            {'box.shared_fcs.1': span(0, 7)}, {'box.fc_cls': span(0, 7), 'box.fc_reg': span(0, 7)},
            act=4, flops=lambda k: 4 * 7 + 4 * 3 + 4 * 8)},
    'SimCC': {  # four keypoints are tokens: 16 pairs in a product
        'stem_(0, 6)_6': Unit({'stem': span(0, 6)}, {'conv': span(0, 6)},
                              act=64, flops=lambda k: 64 * 9 * 3 + 64 * 9 * 8),
        'conv_(0, 8)_8': Unit({'conv': span(0, 8)}, {'head.final_layer': span(0, 8)},
                              act=64, flops=lambda k: 64 * 9 * 6 + 64 * 49 * 4),
        'head.mlp.1_(0, 16)_16': Unit(
            {'head.mlp.1': span(0, 16), 'head.gau.o': span(0, 16)},
            {'head.gau.uv': span(0, 16), 'head.cls_x': span(0, 16), 'head.cls_y': span(0, 16)},
            act=4 + 4, flops=lambda k: 4 * 64 + 4 * 32 + 4 * 72 + 4 * 32 + 4 * 32),
        'head.gau.uv_(0, 64)_64': Unit({'head.gau.uv': strided(32, 2)}, {'head.gau.o': span(0, 32)},
                                       act=2 * 4, flops=lambda k: 2 * 4 * 16 + 4 * 16 + 16),
        'head.gau.uv_(64, 72)_8': Unit({'head.gau.uv': span(64, 8)}, {'head.gau.product.query': span(0, 8)},
                                       act=4, flops=lambda k: 4 * 16 + 16)},
    'Deformable': {  # offsets have 2 * 9 channels; modulated ones in two blocks of channels 2 * 3 * 9
        'stem_(0, 6)_6': Unit({'stem': span(0, 6)}, {'plain': span(0, 6), 'plain.conv_offset': span(0, 6)},
                              act=256, flops=lambda k: 256 * 9 * 3 + 256 * 9 * 8 + 256 * 9 * 18),
        'plain_(0, 8)_8': Unit({'plain': strided(4, 2)},
                               {'modulated': strided(4, 2), 'modulated.conv_offset': strided(4, 2)},
                               act=2 * 256, flops=lambda k: 2 * 256 * 9 * (6 + 5 + 54)),
        'modulated_(0, 5)_5': Unit({'modulated': span(0, 5)}, {'head': span(0, 5)},
                                   act=256, flops=lambda k: 256 * 9 * 8 + 256 * 3)}}
LIGHT = ('Pyramid', 'CrossStage', 'Regions')
NETS = [name if name in LIGHT else pytest.param(name, marks=full) for name in UNITS]


def pair(name):
    """Return two equal networks in float64; attentions of the second run our forward, as those of the first will."""
    ours = toy_nets.randomise(getattr(detection_nets, name)()).double()
    dense = copy.deepcopy(ours)
    take_over([module for module in dense.modules() if forward_for(module)])
    return ours, dense


def mutator_of(model, kind='none', size=16):
    mutator = build(MODELS, toy_nets.mutator_cfg(kind, size=size))
    mutator.prepare(model)
    return mutator


@pytest.mark.parametrize('kind', ['act', 'flops'])
@pytest.mark.parametrize('name', NETS)
def test_scores_equal_brute_force(name, kind):
    """Three iterations of 1, 3 and 2 images, batch norm in train mode."""
    ours, dense = pair(name)
    mutator, brute = mutator_of(ours, kind), BruteForce(dense, UNITS[name])
    for batch in (1, 3, 2):
        iterate(mutator, brute, ours, dense, torch.randn(batch, 3, 16, 16, dtype=torch.float64))
    worst = worst_of(mutator, brute, kind)
    print(f'{name} {kind}: worst relative error {worst:.2e}')
    assert worst < 1e-8
    assert all(float(brute.fisher[unit].max()) > 0 for unit in UNITS[name])  # relu may kill a channel


def regions_of(name, count, images):
    """Return ``count`` regions of random images."""
    image = torch.randint(images, (count, 1))
    corner = torch.randint(0, 8, (count, 2))
    extent = torch.randint(2, 9, (count, 2))
    if name == 'RCNN':
        return torch.cat([image, corner, corner + extent], 1)
    return [(i, y, y + h, x, x + w) for i, y, x, h, w in torch.cat([image, corner, extent], 1).tolist()]


@pytest.mark.parametrize('name', ['Regions', pytest.param('RCNN', marks=full)])
def test_regions_are_samples_of_their_own_batch(name):
    """Any number of regions, as many as images, and none at all."""
    ours, dense = pair(name)
    mutator, brute = mutator_of(ours), BruteForce(dense, UNITS[name])
    second_stage = 'fc1_(0, 7)_7' if name == 'Regions' else 'box.shared_fcs.0_(0, 7)_7'
    for count in (5, 2, 0, 1):
        before = mutator.fisher.clone(), {unit: value.clone() for unit, value in mutator.scores().items()}
        ours.regions = dense.regions = ours.rois = dense.rois = regions_of(name, count, 2)
        iterate(mutator, brute, ours, dense, torch.randn(2, 3, 16, 16, dtype=torch.float64))
        if count == 0:
            assert torch.equal(mutator.scores()[second_stage], before[1][second_stage])
            assert bool((mutator.fisher != before[0]).any())
    worst = worst_of(mutator, brute)
    print(f'{name}: worst relative error {worst:.2e}')
    assert worst < 1e-8


@full
def test_level_that_pools_nothing():
    """All regions are small: the second level is read by the first stage only."""
    ours, dense = pair('RCNN')
    mutator, brute = mutator_of(ours), BruteForce(dense, UNITS['RCNN'])
    ours.rois = dense.rois = torch.tensor([[0, 1, 1, 5, 5], [1, 2, 3, 4, 6]])
    for _ in range(2):
        iterate(mutator, brute, ours, dense, torch.randn(2, 3, 16, 16, dtype=torch.float64))
    assert worst_of(mutator, brute) < 1e-8


@full
def test_what_stays_of_a_simcc_head():
    mutator = mutator_of(detection_nets.SimCC())
    reasons = {channels.name: channels.reason for channels in mutator.frozen}
    tokens = "its maps are the tokens of an attention in module 'head.mlp.0'"
    assert {name: reason for name, reason in reasons.items() if name.startswith('head.')} == {
        'head.final_layer_(0, 4)_4': tokens, 'head.mlp.1_(0, 64)_64': tokens,
        **dict.fromkeys(['head.cls_x_(0, 32)_32', 'head.cls_y_(0, 32)_32'], 'it is an output of the model')}
    assert {unit.name for unit in mutator.units if unit.name.startswith('head.')} == {
        'head.mlp.1_(0, 16)_16', 'head.gau.uv_(0, 64)_64', 'head.gau.uv_(64, 72)_8'}  # stream, gate and values, base
