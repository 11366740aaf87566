"""mmpretrain's and mmcls's attentions: they compute what they did, and cut and masked models are equal."""
import copy

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

from mmprune.units.attention.norm import LayoutStreamNorm2d
from mmprune.units.attention.taking_over import forward_for, take_over
from mmprune.units.equivalence import relative_difference

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings(
    'ignore:.*use_layer_scale', 'ignore:torch.meshgrid', 'ignore:Lazy modules')]
ALL = {'heads', 'qk', 'v', 'stream', ''}
ARCH = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=32)
SWIN = dict(embed_dims=12, depths=[2, 2], num_heads=[2, 3])
STAGES = dict(embed_dims=[8, 12, 16, 24], num_heads=[2, 2, 2, 3], patch_sizes=[2] * 4, strides=[2] * 4,
              mlp_ratios=[2] * 4, depths=[2, 1, 1, 1], sr_ratios=[2, 2, 1, 1])
#: name -> backbone, width of the image
BACKBONES = {
    'vit': (dict(type='VisionTransformer', arch=ARCH, img_size=16, patch_size=4), 16),
    'dinov2': (dict(type='VisionTransformer', arch=ARCH, img_size=16, patch_size=4, layer_scale_init_value=1.0), 16),
    'distilled': (dict(type='DistilledVisionTransformer', arch=ARCH, img_size=16, patch_size=4), 16),
    'swin': (dict(type='SwinTransformer', arch=SWIN, img_size=32, patch_size=2, window_size=4, out_indices=(1, )), 32),
    'swin of padded maps': (dict(type='SwinTransformer', arch=SWIN, img_size=36, patch_size=2, window_size=4,
                                 out_indices=(1, ), pad_small_map=True), 36),
    'swin v2': (dict(type='SwinTransformerV2', arch=dict(SWIN, extra_norm_every_n_blocks=2), img_size=32, patch_size=2,
                     window_size=[4, 4], out_indices=(1, )), 32),
    'beit': (dict(type='BEiTViT', arch=ARCH, img_size=16, patch_size=4), 16),
    'beit with one table': (dict(type='BEiTViT', arch=ARCH, img_size=16, patch_size=4, use_rel_pos_bias=False,
                                 use_shared_rel_pos_bias=True), 16),
    'tiny vit': (dict(type='TinyViT', arch=dict(channels=[8, 12, 16, 24], num_heads=[2, 2, 2, 3], depths=[1] * 4,
                                                window_sizes=[4] * 4), img_size=(64, 64), out_indices=(3, )), 64),
    'twins svt': (dict(type='SVT', arch=dict(STAGES, window_sizes=[3] * 4)), 32),
    'twins pcpvt': (dict(type='PCPVT', arch=STAGES), 32),
    'davit': (dict(type='DaViT', arch=dict(embed_dims=12, num_heads=[2, 2, 2, 2], depths=[1] * 4), window_size=2,
                   out_indices=(3, )), 64),
    'xcit': (dict(type='XCiT', patch_size=8, embed_dims=16, depth=2, cls_attn_layers=1, num_heads=2,
                  use_pos_embed=False), 32),
    't2t': (dict(type='T2T_ViT', img_size=32, embed_dims=24, num_layers=2, t2t_cfg=dict(token_dims=8),
                 layer_cfgs=dict(num_heads=3, feedforward_channels=32)), 32)}


class Classifier(nn.Module):
    """A backbone, the mean of its last output and a linear layer: heads of a library have their own idea of widths."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.fc = backbone, nn.LazyLinear(3)

    def forward(self, x):
        out = self.backbone(x)[-1]
        out = out[-1] if isinstance(out, (tuple, list)) else out  # a token of its own
        return self.fc(out.flatten(2).mean(-1) if out.dim() == 4 else out)


def made(name, library='mmpretrain'):
    registry = pytest.importorskip(f'{library}.registry')
    pytest.importorskip(f'{library}.models')
    cfg, size = copy.deepcopy(BACKBONES[name])
    if library == 'mmcls':
        cfg['type'] = cfg['type'].replace('BEiTViT', 'BEiT')
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    return lambda: built(registry, copy.deepcopy(cfg), x, library), lambda model: model(x)


def built(registry, cfg, x, library):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(library):  # whatever another test has left
        model = Classifier(registry.MODELS.build(cfg)).double().eval()
        model(x)
    return model


@pytest.mark.parametrize('name', BACKBONES)
def test_mmpretrain(name):
    make, forward = made(name)
    model = random_model(make)
    modules = assert_swap_computes_the_same(model, forward)
    assert any(hasattr(module, 'product') for module in modules)
    mutator = prepared(model, forward)
    assert parts(mutator) == ALL
    assert_cut_equals_masked(mutator, forward)


@pytest.mark.parametrize('name', ['vit', 'swin', 'beit'])
def test_a_structure_is_rebuilt(name):
    make, forward = made(name)
    assert_structure_is_rebuilt(make, prepared(make(), forward), forward)


@pytest.mark.parametrize('name', ['vit', 'swin', 'swin v2', 'beit', 'twins svt', 'davit', 'xcit', 't2t'])
def test_mmcls(name):
    make, forward = made(name, 'mmcls')
    model = random_model(make)
    assert_swap_computes_the_same(model, forward)
    mutator = prepared(model, forward)
    assert parts(mutator) == ALL
    assert_cut_equals_masked(mutator, forward, seeds=1)


def test_a_scale_that_is_given_divides():
    attention = pytest.importorskip('mmpretrain.models.utils').MultiheadAttention
    module, x = attention(12, 3, qk_scale=0.5).double().eval(), torch.randn(2, 5, 12, dtype=torch.float64)
    before = module(x).detach()
    take_over([module])
    assert relative_difference([before], [module(x).detach()]) < 1e-12


def test_values_that_go_past_the_projection_do_not_fit():
    attention = pytest.importorskip('mmpretrain.models.utils').MultiheadAttention
    assert forward_for(attention(12, 1, input_dims=8, v_shortcut=True)) is None


@pytest.mark.parametrize('scale', [dict(qk_scale_type='learnable'), dict(qk_scale_type='fixed')])
def test_attention_over_channels(scale):
    attention = pytest.importorskip('mmpretrain.models.utils').ChannelMultiheadAttention

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 12), attention(12, 3, **scale), nn.Linear(12, 4)).double().eval()

    x = torch.randn(2, 5, 6, dtype=torch.float64)
    model = random_model(make)
    assert_swap_computes_the_same(model, lambda model: model(x))
    mutator = prepared(model, lambda model: model(x))
    assert {'heads', 'v'} <= parts(mutator)
    assert_cut_equals_masked(mutator, lambda model: model(x))


def test_layer_norms_of_maps_in_both_layouts():
    norm = pytest.importorskip('mmpretrain.models.utils').LayerNorm2d(6).double().requires_grad_(False)
    x = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    before = [norm(x), norm(x.permute(0, 2, 3, 1), data_format='channel_last')]
    assert forward_for(norm) is LayoutStreamNorm2d
    take_over([norm])
    after = [norm(x), norm(x.permute(0, 2, 3, 1), data_format='channel_last')]
    assert relative_difference(before, after) < 1e-12
    assert after[0].is_contiguous()


@pytest.mark.parametrize('last', [True, False])
def test_the_stream_of_convnext_goes(last):
    registry = pytest.importorskip('mmpretrain.registry')
    pytest.importorskip('mmpretrain.models')
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def make():
        return built(registry, dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[8, 8, 12, 12]),
                                    linear_pw_conv=last), x, 'mmpretrain')

    mutator = prepared(random_model(make), lambda model: model(x))
    assert 'stream' in parts(mutator)
    assert_cut_equals_masked(mutator, lambda model: model(x), seeds=1)
