"""Transformer backbones of mmdet, mmseg and mmpose, which have copies of mmpretrain's attentions."""
import importlib

import pytest
import torch
from attention_runtime import (
    assert_cut_equals_masked,
    assert_structure_is_rebuilt,
    assert_swap_computes_the_same,
    parts,
    prepared,
    random_model,
)
from mmengine.registry import DefaultScope
from torch import nn

pytestmark = [pytest.mark.full, *(pytest.mark.filterwarnings(f'ignore:.*{text}') for text in (
    'deprecated', 'build_loss', 'meshgrid', 'set embed_dims', '__floordiv__'))]
SWIN = dict(type='SwinTransformer', embed_dims=8, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), window_size=4,
            out_indices=(0, 1), drop_path_rate=0.0, mlp_ratio=2)
VIT = dict(img_size=32, patch_size=8, embed_dims=16, num_layers=2, num_heads=2, out_indices=-1)
BRANCHES = dict(num_modules=1, block='HRFORMERBLOCK')
#: What takes images of one size: of another, what is padded on the way.
SIZE = {'mmseg BEiT': (32, 32), 'mmpose HRFormer': (64, 96)}
BACKBONES = {
    'mmdet Swin': SWIN, 'mmseg Swin': SWIN, 'mmpose Swin': SWIN,
    'mmseg BEiT': dict(VIT, type='BEiT', qv_bias=True),
    'mmseg SVT': dict(type='SVT', embed_dims=[8, 16], num_heads=[2, 4], depths=[2, 2], patch_sizes=[4, 2],
                      strides=[4, 2], mlp_ratios=[2, 2], sr_ratios=[2, 1], windiow_sizes=[5, 3], out_indices=(0, 1),
                      drop_path_rate=0.0),
    'mmdet PVT': dict(type='PyramidVisionTransformer', embed_dims=8, num_stages=2, num_layers=[1, 1], num_heads=[2, 4],
                      patch_sizes=[4, 2], strides=[4, 2], paddings=[0, 0], sr_ratios=[2, 1], mlp_ratios=[2, 2],
                      out_indices=(0, 1), drop_path_rate=0.0),
    'mmpose HRFormer': dict(type='HRFormer', in_channels=3, norm_cfg=dict(type='BN'), extra=dict(
        drop_path_rate=0.0, with_rpe=True,
        stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1, ), num_channels=(8, )),
        **{f'stage{branches}': dict(
            BRANCHES, num_branches=branches, num_blocks=(1, ) * branches, window_sizes=(4, ) * branches,
            num_heads=(2, ) * branches, mlp_ratios=(2, ) * branches,
            num_channels=tuple(8 * 2 ** place for place in range(branches))) for branches in (2, 3, 4)}))}


def maker(name):
    package, kind = name.split()
    pytest.importorskip(package)

    def make():
        registry = importlib.import_module(f'{package}.registry').MODELS
        with DefaultScope.overwrite_default_scope(package):
            importlib.import_module(f'{package}.models')
            return nn.Sequential(registry.build(BACKBONES[name]))  # their own eval() returns nothing

    return make


@pytest.mark.parametrize('name', BACKBONES)
def test_heads_and_dimensions_go(name):
    make = maker(name)
    x = torch.randn(2, 3, *SIZE.get(name, (52, 44)), generator=torch.Generator().manual_seed(0))

    def run(model):
        found = model(x.to(next(model.parameters())))
        return list(found)

    dense = random_model(make)
    modules = assert_swap_computes_the_same(dense, run)
    mutator = prepared(dense, run)
    assert parts(mutator) >= {'heads', 'qk', 'v'}
    heads = [unit for unit in mutator.units if unit.channels.part == 'heads']
    assert len(heads) == sum(getattr(module, 'product', None) is not None for module in modules)
    assert_cut_equals_masked(mutator, run)
    assert_structure_is_rebuilt(lambda: random_model(make), mutator, run)
