"""Group Fisher prunes an OpenMMLab transformer while it trains: heads, their dimensions, the stream, inner channels."""
import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope

from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.units.equivalence import relative_difference

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore:.*use_layer_scale')]


def algorithm(interval):
    registry = pytest.importorskip('mmpretrain.registry')
    pytest.importorskip('mmpretrain.models')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):  # whatever another test has left
        model = registry.MODELS.build(dict(
            type='ImageClassifier', data_preprocessor=None, head=dict(
                type='VisionTransformerClsHead', num_classes=4, in_channels=48),
            backbone=dict(type='VisionTransformer', img_size=32, patch_size=8, arch=dict(
                embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=64))))
    return GroupFisherAlgorithm(model, dict(
        type='GroupFisherChannelMutator', demo_input=dict(type='DemoInput', input_shape=(1, 3, 32, 32)),
        channel_unit_cfg=dict(type='GroupFisherChannelUnit', mutate_linear=True, normalization_type='none')), interval)


def batch():
    samples = pytest.importorskip('mmpretrain.structures').DataSample
    return dict(inputs=torch.randn(4, 3, 32, 32), data_samples=[samples().set_gt_label(label) for label in range(4)])


def test_deit_is_pruned_while_it_trains():
    model = algorithm(interval=2)
    mutator = model.mutator
    layers = {*mutator.taps.layers}
    assert {'backbone.layers.0.attn.product.query', 'backbone.layers.0.attn.proj',
            'backbone.layers.0.attn.qkv'} <= layers
    before, wrapper = dict(mutator.sets), OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-3))
    data, scored = batch(), set()
    for _ in range(24):
        loss = model.train_step(data, wrapper)['loss']
        assert torch.isfinite(loss)
        for unit in mutator.units:  # a score of each kind arrives
            own = mutator.fisher[mutator._start[unit.name]:][:mutator._count[unit.name]]
            scored |= {unit.channels.part} if bool(own.any()) else set()
    assert scored == {'', 'heads', 'qk', 'v'}
    lost = {name: before[name] - count for name, count in mutator.sets.items() if count < before[name]}
    assert sum(lost.values()) >= 10
    product = model.architecture.backbone.layers[0].attn.product
    assert model.architecture.backbone.layers[0].attn.proj.in_features == product.heads * product.v_dims


def test_the_cut_model_computes_what_the_masked_one_did():
    model = algorithm(interval=1)
    x, data = torch.randn(2, 3, 32, 32), batch()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
    for _ in range(8):
        model.train_step(data, wrapper)
    masked = algorithm(interval=100)
    masked.mutator.apply_structure({name: vector.nonzero()[0].tolist() for name, vector in model.mutator.kept.items()})
    masked.architecture.load_state_dict(model.architecture.state_dict())
    outs = [one.eval().architecture(x, mode='tensor') for one in (model, masked)]
    assert relative_difference(outs[:1], outs[1:]) < 1e-5
