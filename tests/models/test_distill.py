"""Distillation: the DIST loss by hand, and a teacher that is no part of the student."""
import copy
import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from paths import TINY

from mmprune.config import plain
from mmprune.models.checkpoint import CheckpointError
from mmprune.models.distill import ChannelWiseDivergence, DISTLoss
from mmprune.registry import MODELS
from mmprune.units.equivalence import randomise

UNIT = 'backbone.conv1_(0, 8)_8'


def test_loss_is_one_minus_pearson_of_rows_and_columns():
    student = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 1.0], [2.0, 0.0, 0.0]])
    teacher = torch.tensor([[3.0, 1.0, 0.0], [0.5, -2.0, 1.5], [1.0, 1.0, -1.0]])
    tau = 2.0
    soft = [np.exp(x.numpy() / tau) / np.exp(x.numpy() / tau).sum(1, keepdims=True) for x in (student, teacher)]
    inter = 1 - np.mean([np.corrcoef(soft[0][i], soft[1][i])[0, 1] for i in range(3)])
    intra = 1 - np.mean([np.corrcoef(soft[0][:, i], soft[1][:, i])[0, 1] for i in range(3)])
    expected = tau**2 * (0.5 * inter + 3.0 * intra)
    assert float(DISTLoss(0.5, 3.0, tau)(student, teacher)) == pytest.approx(expected, rel=1e-5)
    assert expected > 0.1


def test_loss_is_zero_for_equal_predictions_and_finite_for_constant_ones():
    logits = torch.randn(4, 5)
    assert float(DISTLoss()(logits, logits + 3.0)) == pytest.approx(0.0, abs=1e-5)
    assert math.isfinite(float(DISTLoss()(torch.zeros(4, 5), logits)))


@pytest.fixture
def config(tmp_path):
    """A distilled model's config: a pruned checkpoint, a teacher with weights of its own."""
    cfg = Config.fromfile(TINY)
    init_default_scope('mmcls')
    dense = dict(plain(cfg.model), data_preprocessor=plain(cfg.data_preprocessor), _scope_='mmcls')
    algorithm = dict(type='mmprune.GroupFisherAlgorithm', architecture=dense,
                     mutator=dict(type='mmprune.GroupFisherChannelMutator',
                                  demo_input=dict(type='mmprune.DemoInput', input_shape=(1, 3, 16, 16))))
    pruned = MODELS.build(copy.deepcopy(algorithm))
    pruned.mutator.apply_structure({unit.name: unit.width // 2 for unit in pruned.mutator.units})
    torch.save(dict(state_dict=pruned.state_dict()), tmp_path / 'pruned.pth')
    teacher = MODELS.build(copy.deepcopy(dense))
    randomise(teacher, 1)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    algorithm['init_cfg'] = dict(type='Pretrained', checkpoint=str(tmp_path / 'pruned.pth'))
    return dict(type='mmprune.DistilledSubModel', student=dict(type='mmprune.GroupFisherSubModel', algorithm=algorithm),
                teacher=dict(dense, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'teacher.pth'))))


def batch():
    from mmcls.structures import ClsDataSample

    samples = [ClsDataSample().set_gt_label(i % 10) for i in range(8)]
    return dict(inputs=torch.randint(0, 255, (8, 3, 16, 16), dtype=torch.uint8), data_samples=samples)


def test_teacher_is_no_part_of_the_student(config):
    student = MODELS.build(copy.deepcopy(config))
    alone = MODELS.build(copy.deepcopy(config['student']))
    assert list(student.state_dict()) == list(alone.state_dict())
    assert [p.shape for p in student.parameters()] == [p.shape for p in alone.parameters()]
    assert len(list(student.modules())) == len(list(alone.modules()))
    teacher = student._teacher.model
    assert student.fix_subnet[UNIT] == 4
    assert teacher.backbone.conv1.weight.shape[0] == 8
    student.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert copy.deepcopy(student)._teacher is student._teacher
    student.double()
    assert teacher.head.fc.weight.dtype == torch.float64


def test_training_uses_the_teachers_logits_and_leaves_it_alone(config):
    student = MODELS.build(copy.deepcopy(config)).train()
    teacher = student._teacher.model
    before = copy.deepcopy(teacher.state_dict())
    data = student.data_preprocessor(batch(), training=True)
    with torch.no_grad():
        losses = student(**copy.deepcopy(data), mode='loss')
        expected = DISTLoss()(student(data['inputs'], mode='tensor'), teacher(data['inputs'], mode='tensor'))
    assert set(losses) == {'loss', 'loss_dist'}
    assert float(losses['loss_dist']) == pytest.approx(float(expected), rel=1e-4)
    wrapper = OptimWrapper(torch.optim.SGD(student.parameters(), lr=0.1))
    logs = [student.train_step(batch(), wrapper)['loss_dist'].item() for _ in range(30)]
    assert np.mean(logs[-5:]) < np.mean(logs[:5])
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_channel_wise_divergence_by_hand():
    student, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    tau, expected = 2.0, 0.0
    for n in range(2):
        for c in range(3):
            p, q = (np.exp(x[n, c].numpy().reshape(-1) / tau) for x in (teacher, student))
            p, q = p / p.sum(), q / q.sum()
            expected += float((p * np.log(p / q)).sum())
    expected *= 5.0 * tau**2 / 6
    assert float(ChannelWiseDivergence(5.0, tau)(student, teacher)) == pytest.approx(expected, rel=1e-5)
    assert expected > 0.1
    assert float(ChannelWiseDivergence()(teacher + 3.0, teacher)) == pytest.approx(0.0, abs=1e-6)


def test_pruned_features_are_compared_with_the_teachers_same_channels(config):
    """The pruned checkpoint keeps channels 1, 3, 5 and 7 of the stem."""
    path = config['student']['algorithm']['init_cfg']['checkpoint']
    checkpoint = torch.load(path, weights_only=True)
    kept = checkpoint['state_dict'][f'mutator.kept.{UNIT}']
    kept[:] = torch.arange(8) % 2
    torch.save(checkpoint, path)
    config.update(outputs=['backbone.conv1', 'head.fc'], distill_loss=dict(type='ChannelWiseDivergence'))
    with pytest.raises(IndexError):  # a softmax over positions of class scores has none
        MODELS.build(copy.deepcopy(config))(torch.randn(2, 3, 16, 16), batch()['data_samples'][:2], mode='loss')
    config['outputs'] = ['backbone.conv1']
    student = MODELS.build(copy.deepcopy(config))
    teacher = student._teacher
    assert teacher.features_only
    calls = []
    teacher.model.head.register_forward_hook(lambda *args: calls.append(args))
    x = torch.randn(2, 3, 16, 16)
    loss = student(x, batch()['data_samples'][:2], mode='loss')['loss_dist'].detach()
    with torch.no_grad():
        expected = ChannelWiseDivergence()(student.backbone.conv1(x), teacher.model.backbone.conv1(x)[:, 1::2])
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert not calls
    config['outputs'] = ['backbone.relu']
    with pytest.raises(ValueError, match=r"outputs: 'backbone.relu' puts out \[.*name layers with weights"):
        MODELS.build(copy.deepcopy(config))(x, batch()['data_samples'][:2], mode='loss')


def test_mistakes_are_named(config, tmp_path):
    with pytest.raises(ValueError, match='the teacher needs weights'):
        MODELS.build(dict(copy.deepcopy(config), teacher={k: v for k, v in config['teacher'].items()
                                                          if k != 'init_cfg'}))
    with pytest.raises(ValueError, match="outputs: the model has no module 'head.fcs', did you mean 'head.fc'"):
        MODELS.build(dict(copy.deepcopy(config), outputs='head.fcs'))
    missing = copy.deepcopy(config)
    missing['teacher']['init_cfg']['checkpoint'] = str(tmp_path / 'none.pth')
    with pytest.raises(CheckpointError, match='teacher: there is no file'):
        MODELS.build(missing)
