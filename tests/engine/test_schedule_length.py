"""A training of another length: every count of epochs or iterations is scaled, nothing else."""
import pytest

from mmprune.arguments import UserError
from mmprune.engine.compress.schedule_length import training_length

BASE = dict(
    param_scheduler=[dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
                     dict(type='CosineAnnealingLR', T_max=285, begin=5, end=285, by_epoch=True, eta_min=1e-5)],
    train_cfg=dict(max_epochs=300, val_interval=10, dynamic_intervals=[(280, 1)]),
    custom_hooks=[dict(type='YOLOXModeSwitchHook', num_last_epochs=15, priority=48), dict(type='EMAHook')])


def test_a_tenth_of_a_training():
    length = training_length(BASE, 0.1)
    assert length.param_scheduler == [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(type='CosineAnnealingLR', T_max=28, begin=0, end=28, by_epoch=True, eta_min=1e-5)]
    assert length.train_cfg == dict(max_epochs=30, val_interval=10, dynamic_intervals=[(28, 1)])
    assert length.custom_hooks[0]['num_last_epochs'] == 2
    assert (length.length, length.unit) == (30, 'epochs')


def test_the_whole_training_is_the_base():
    length = training_length(BASE)
    assert length[:3] == (BASE['param_scheduler'], BASE['train_cfg'], BASE['custom_hooks'])
    assert BASE['train_cfg']['max_epochs'] == 300


@pytest.mark.parametrize('part', [0.001, 0.01])
def test_a_short_training_keeps_one_of_each(part):
    length = training_length(BASE, part)
    assert length.train_cfg['max_epochs'] == max(1, round(300 * part))
    assert all(one['end'] > one['begin'] for one in length.param_scheduler)
    assert length.param_scheduler[1]['T_max'] >= 1
    assert length.train_cfg['val_interval'] <= length.train_cfg['max_epochs']


def test_iterations_and_milestones():
    base = dict(param_scheduler=dict(type='MultiStepLR', milestones=[100, 150], by_epoch=False),
                train_cfg=dict(type='IterBasedTrainLoop', max_iters=200, val_interval=50))
    length = training_length(base, 0.5)
    assert length.param_scheduler == [dict(type='MultiStepLR', milestones=[50, 75], by_epoch=False)]
    assert length.train_cfg == dict(type='IterBasedTrainLoop', max_iters=100, val_interval=50)
    assert length.unit == 'iterations'


def test_a_config_that_does_not_train_is_refused():
    with pytest.raises(UserError, match='no train_cfg'):
        training_length({})
