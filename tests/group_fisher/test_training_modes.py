"""Odd ways to train, on mmdet's own parts: recomputed blocks, frozen norms, frozen stages, images without objects."""
import copy

import pytest
import torch
import toy_nets
from brute_force import BruteForce, iterate, worst_of
from hand_units import Unit, span
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from torch import nn

from mmprune.config import group_fisher_model
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.registry import MODELS, build
from mmprune.report import proof as check
from mmprune.units.mutator import ChannelMutator

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore:torch.meshgrid')]


def unit(producers, consumers, width):
    """Scores are not divided by a cost here."""
    return Unit({f'backbone.{layer}': span(0, width) for layer in producers},
                {layer if layer == 'head' else f'backbone.{layer}': span(0, width) for layer in consumers},
                act=1, flops=lambda k: 1)


#: Two stages of ResNet-18: 4 channels, which the stem has here as well, then 8.
UNITS = {
    'backbone.conv1_(0, 4)_4': unit(['conv1', 'layer1.0.conv2', 'layer1.1.conv2'],
                                    ['layer1.0.conv1', 'layer1.1.conv1', 'layer2.0.conv1', 'layer2.0.downsample.0'], 4),
    'backbone.layer1.0.conv1_(0, 4)_4': unit(['layer1.0.conv1'], ['layer1.0.conv2'], 4),
    'backbone.layer1.1.conv1_(0, 4)_4': unit(['layer1.1.conv1'], ['layer1.1.conv2'], 4),
    'backbone.layer2.0.conv1_(0, 8)_8': unit(['layer2.0.conv1'], ['layer2.0.conv2'], 8),
    'backbone.layer2.0.conv2_(0, 8)_8': unit(['layer2.0.conv2', 'layer2.0.downsample.0', 'layer2.1.conv2'],
                                             ['layer2.1.conv1', 'head'], 8),
    'backbone.layer2.1.conv1_(0, 8)_8': unit(['layer2.1.conv1'], ['layer2.1.conv2'], 8)}


class Net(nn.Module):
    """Two stages of mmdet's ResNet and a convolution."""

    def __init__(self, depth=18, channels=8, **options):
        super().__init__()
        from mmdet.models.backbones import ResNet
        self.backbone = ResNet(depth, stem_channels=4, base_channels=4, num_stages=2, strides=(1, 2), dilations=(1, 1),
                               out_indices=(1,), **options)
        self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, x):
        return self.head(self.backbone(x)[0])


def net(**options):
    torch.manual_seed(0)
    return toy_nets.randomise(Net(**options)).double().train()


def mutator_of(model):
    mutator = build(MODELS, toy_nets.mutator_cfg('none', size=32))
    mutator.prepare(model)
    return mutator


def images(count):
    return torch.randn(count, 3, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize('options', [dict(norm_eval=False), dict(norm_eval=True),
                                     dict(norm_eval=True, frozen_stages=1), dict(norm_eval=False, frozen_stages=1)])
def test_scores_equal_brute_force(options):
    """With norms in eval mode, and through stages that do not train, whose channels are scored like others."""
    ours = net(**options)
    dense = copy.deepcopy(ours)
    mutator, brute = mutator_of(ours), BruteForce(dense, UNITS)
    modules = dict(ours.named_modules())
    assert modules['backbone.layer1.0.bn1'].training != (options['norm_eval'] or 'frozen_stages' in options)
    assert modules['backbone.layer2.0.bn1'].training != options['norm_eval']
    for batch in (1, 3, 2):
        iterate(mutator, brute, ours, dense, images(batch))
    worst = worst_of(mutator, brute)
    print(f'{options}: worst relative error {worst:.2e}')
    assert worst < 1e-8
    assert all(float(fisher.max()) > 0 for fisher in brute.fisher.values())


@pytest.mark.filterwarnings('ignore:.*use_reentrant')
@pytest.mark.parametrize('options', [{}, dict(frozen_stages=1)])
def test_recomputed_blocks_have_the_scores_of_others(options):
    scores = []
    for with_cp in (False, True):
        model = net(with_cp=with_cp, norm_eval=False, **options)
        mutator = mutator_of(model)
        assert set(mutator.structure) == set(UNITS)
        recomputed = []
        model.backbone.layer2[1].conv1.register_forward_hook(lambda *_, seen=recomputed: seen.append(1))
        torch.manual_seed(1)
        for batch in (2, 3):
            mutator.taps.record(True)
            toy_nets.F.softplus(model(images(batch))).sum().backward()
            mutator.accumulate(mutator.taps.take())
            mutator.taps.record(False)
        assert len(recomputed) == (4 if with_cp else 2)
        scores.append(torch.cat(list(mutator.scores().values())))
    difference = float(((scores[0] - scores[1]).abs() / scores[0].abs().clamp_min(1e-300)).max())
    print(f'with_cp, {options}: largest relative difference {difference:.2e}')
    assert difference < 1e-8
    assert float(scores[0].max()) > 0


class Classifier(toy_nets.ToyClassifier):
    """The loss is that of the mean over the image."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.net(inputs)
        return dict(loss=nn.functional.cross_entropy(out.mean((2, 3)), data_samples)) if mode == 'loss' else out


def pruned(count=12, **options):
    """Prune channels of the small network while it trains; return the algorithm and the dense state."""
    model = Classifier(net(**options))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    algorithm = toy_nets.algorithm_of(model, size=32)
    algorithm.train()
    wrapper = OptimWrapper(torch.optim.SGD([p for p in algorithm.parameters() if p.requires_grad], lr=0.01,
                                           momentum=0.9, weight_decay=1e-2))
    for _ in range(count):
        losses = algorithm.train_step(dict(inputs=images(2), data_samples=torch.randint(3, (2,))), wrapper)
        assert bool(losses['loss'].isfinite())
    assert sum(unit.width - unit.current_width for unit in algorithm.mutator.units) == count
    return algorithm, before


def kept_of(algorithm, name):
    return torch.from_numpy(algorithm.mutator.kept[f'net.backbone.{name}']).bool()


def test_frozen_norms_are_cut_and_keep_their_statistics():
    algorithm, before = pruned(norm_eval=True, frozen_stages=-1)
    after = algorithm.architecture.state_dict()
    for number, (norm, name) in enumerate((('bn1', 'conv1_(0, 4)_4'), ('layer2.0.bn1', 'layer2.0.conv1_(0, 8)_8'),
                                           ('layer2.1.bn2', 'layer2.0.conv2_(0, 8)_8'))):
        kept = kept_of(algorithm, name)
        for statistic in ('running_mean', 'running_var'):
            key = f'net.backbone.{norm}.{statistic}'
            assert torch.equal(after[key], before[key][kept]), (number, key)
        weight = f'net.backbone.{norm}.weight'
        assert after[weight].shape == before[weight][kept].shape
        assert not torch.equal(after[weight], before[weight][kept])  # it trains
    assert len({unit.current_width for unit in algorithm.mutator.units}) > 1


def test_frozen_stage_is_pruned_and_does_not_train():
    """As in every stage the least channels go; what stays of the frozen one is what it was."""
    algorithm, before = pruned(20, norm_eval=True, frozen_stages=1)
    model = algorithm.architecture
    stream, inner = kept_of(algorithm, 'conv1_(0, 4)_4'), kept_of(algorithm, 'layer1.0.conv1_(0, 4)_4')
    conv = model.net.backbone.layer1[0].conv1.weight
    assert int(stream.sum()) + int(inner.sum()) < 8
    assert torch.equal(conv, before['net.backbone.layer1.0.conv1.weight'][inner][:, stream])
    assert torch.equal(model.net.backbone.conv1.weight, before['net.backbone.conv1.weight'][stream])
    assert not conv.requires_grad
    assert conv.grad is None
    trained = model.net.backbone.layer2[0].conv1.weight
    rows = kept_of(algorithm, 'layer2.0.conv1_(0, 8)_8')
    assert not torch.equal(trained, before['net.backbone.layer2.0.conv1.weight'][rows][:, stream])


def test_backbone_with_deformable_convolutions_is_cut_exactly():
    model = Net(50, 32, dcn=dict(type='DCNv2', deform_groups=2), stage_with_dcn=(False, True))
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 32, 32)))
    mutator.prepare(model)
    deformable = [unit for unit in mutator.units if any(
        'layer2' in member.axis.layer and member.axis.layer.endswith('.conv2') for member in unit.channels.consumers)]
    assert len(deformable) == 4
    assert {unit.multiplicity for unit in deformable} == {2}
    proof = check.prove(mutator, seeds=2)
    print(f'ResNet-50 with DCNv2: {max(proof.differences):.1e} over {proof.units} units')
    assert proof.holds()


def small_mask_rcnn():
    """mmdet's Mask R-CNN, few channels of everything."""
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    model = cfg.model
    model.backbone.update(depth=18, base_channels=4, stem_channels=4, frozen_stages=-1, init_cfg=None)
    model.neck.update(in_channels=[4, 8, 16, 32], out_channels=8)
    model.rpn_head.update(in_channels=8, feat_channels=8)
    model.train_cfg.rpn_proposal.max_per_img = 40
    for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        extractor.out_channels = 8
    model.roi_head.bbox_head.update(in_channels=8, fc_out_channels=16, num_classes=4)
    model.roi_head.mask_head.update(in_channels=8, conv_out_channels=8, num_convs=2, num_classes=4)
    return cfg


def test_images_without_objects():
    """No region is positive: the mask head reads no region and gets nothing; nothing breaks, and the run prunes on."""
    from mmdet.testing import demo_mm_inputs
    model = ConfigDict(group_fisher_model(small_mask_rcnn(), '', 3, 'act', (1, 3, 64, 96), mutate_linear=True))
    model.pop('_delete_')
    model.architecture.pop('init_cfg')
    model.mutator.demo_input.regions = 20
    algorithm = MODELS.build(model)
    assert isinstance(algorithm, GroupFisherAlgorithm)
    algorithm.init_weights()
    algorithm.train()
    wrapper = OptimWrapper(torch.optim.SGD(algorithm.parameters(), lr=1e-4))
    mask = next(unit for unit in algorithm.mutator.units if 'mask_head.convs.0' in unit.name)
    gained = []
    for items in ([0, 0], [2, 0], [0, 0], [0, 1]):
        before = algorithm.mutator.scores()[mask.name].clone()
        losses = algorithm.train_step(demo_mm_inputs(2, [[3, 64, 96]] * 2, num_items=items, num_classes=4,
                                                     with_mask=True), wrapper)
        assert all(bool(torch.as_tensor(value).isfinite().all()) for value in losses.values())
        gained.append(float((algorithm.mutator.scores()[mask.name] - before).abs().max()))
    assert gained[0] == 0.0
    assert gained[1] > 0.0
    assert algorithm.last_pruned is not None  # after the third
    assert gained[3] > 0.0
