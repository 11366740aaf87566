"""Transformers of mmdet and mmseg around torch's and mmcv's attentions: every stream goes, where positions lie too."""
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

from mmprune.graph.demo_input import build_demo_input
from mmprune.graph.detector_inputs import demo_input_of
from mmprune.units.mutator import ChannelMutator

#: What the libraries say of their own code.
pytestmark = [pytest.mark.full, *(pytest.mark.filterwarnings(f'ignore:.*{text}') for text in (
    'deprecated', 'build_loss', 'avg_non_ignore', 'meshgrid', 'set embed_dims'))]
ENDS = {"it is the model's input, or comes from an operation without channels", 'it is an output of the model'}
NAMES = {'detr': 'detr/detr_r50_8xb2-150e_coco.py',
         'deformable': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'}


def config_of(package, name):
    pytest.importorskip(package)
    from mmengine.hub import get_config
    return get_config(f'{package}::{name}').model


def detector(name):
    """Return a function that builds a small detector of mmdet, with a stream of 16 channels."""
    model = config_of('mmdet', NAMES[name])
    levels = [16, 32, 64][-len(model.neck.in_channels):]
    model.backbone.update(depth=18, base_channels=8, init_cfg=None, norm_cfg=dict(type='BN'), frozen_stages=-1)
    model.neck.update(in_channels=levels, out_channels=16)
    if model.neck.norm_cfg is not None:
        model.neck.norm_cfg = dict(type='GN', num_groups=4)
    for part in (model.encoder, model.decoder):
        part.num_layers = 1
        for key, value in part.layer_cfg.items():
            value.update(dict(embed_dims=16, feedforward_channels=24) if key == 'ffn_cfg' else dict(
                embed_dims=16, num_heads=2, dropout=0.0))
    model.decoder.num_layers = 2
    model.positional_encoding.num_feats = 8
    model.bbox_head.update(embed_dims=16, num_classes=6)
    model.update(num_queries=5, data_preprocessor=dict(type='DetDataPreprocessor'))

    def build():
        from mmdet.registry import MODELS
        from mmengine.registry import DefaultScope
        with DefaultScope.overwrite_default_scope('mmdet'):
            return MODELS.build(copy.deepcopy(model))

    return build


def detect(model):
    """Run a detector on two images, of which one is padded."""
    from mmdet.structures import DetDataSample
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()))
    samples = [DetDataSample(metainfo=dict(img_shape=shape, batch_input_shape=(64, 64))) for shape in (
        (64, 64), (48, 40))]
    given = model.forward_transformer(model.extract_feat(x), samples)
    given = {name: value for name, value in given.items() if not name.startswith('enc_outputs')}
    return list(model.bbox_head(**given))


@pytest.mark.parametrize('name', NAMES)
def test_every_stream_of_a_detector_goes(name):
    make = detector(name)
    model = random_model(make)
    assert_swap_computes_the_same(model, detect)
    mutator = prepared(copy.deepcopy(model), detect)
    assert parts(mutator) == {'heads', 'qk', 'v', 'stream', ''}
    assert {channels.reason for channels in mutator.frozen if 'positions' not in channels.reason} <= ENDS
    assert sum('positions' in channels.reason for channels in mutator.frozen) == (name == 'deformable')
    cut = assert_cut_equals_masked(mutator, detect)
    assert cut.decoder.layers[0].norms[0].weight.numel() < 16
    assert_structure_is_rebuilt(lambda: random_model(make), mutator, detect)


@pytest.mark.parametrize('name', NAMES)
def test_configs_give_a_detector_the_sizes_of_its_images(name):
    """Its forward asks for them; of several images all but the first are padded, and what is masked is traced."""
    model = detector(name)()
    demo = build_demo_input(demo_input_of(config_of('mmdet', NAMES[name]), (2, 3, 64, 96)))
    assert [sample.img_shape for sample in demo.data_samples()] == [(64, 96), (48, 72)]
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True), dict(
        type='QueryDemoInput', input_shape=(2, 3, 64, 96)))
    mutator.prepare(model)
    assert parts(mutator) == {'heads', 'qk', 'v', 'stream', ''}
    images = torch.randn(3, 3, 32, 32)
    assert {sample.img_shape for sample in demo.with_images(images).data_samples()} == {(32, 32)}


def test_segformer():
    model = config_of('mmseg', 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py')
    model.backbone.update(embed_dims=8, num_layers=[1, 1, 1, 1], sr_ratios=[4, 2, 1, 1], init_cfg=None)
    model.decode_head.update(in_channels=[8, 16, 40, 64], channels=12, norm_cfg=dict(type='BN'), num_classes=4)
    model.update(data_preprocessor=None, pretrained=None)

    def make():
        from mmengine.registry import DefaultScope
        from mmseg.registry import MODELS
        with DefaultScope.overwrite_default_scope('mmseg'):
            return MODELS.build(copy.deepcopy(model))

    def segment(net):
        return net._forward(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(
            next(net.parameters())))

    dense = random_model(make)
    assert_swap_computes_the_same(dense, segment)
    mutator = prepared(copy.deepcopy(dense), segment)
    assert parts(mutator) == {'heads', 'qk', 'v', 'stream', ''}
    reasons = [channels.reason for channels in mutator.frozen]
    assert set(reasons) - ENDS == {'its channels are all tied to one another, so that none can go alone'}  # one head
    assert_cut_equals_masked(mutator, segment)
    assert_structure_is_rebuilt(lambda: random_model(make), mutator, segment)
