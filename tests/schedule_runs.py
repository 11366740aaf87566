"""Runs with a schedule of pruning, on a small classifier of digits."""
import pytest
from digits_runs import INPUT_SHAPE, make_runner, write_prune_config

EPOCHS, ITERATIONS = 4, 5


CONFIG = f'''
_base_ = {{base!r}}
from mmprune.config import schedule_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_, {{schedule!r}}, {{weights!r}}, {INPUT_SHAPE})
train_dataloader = dict(dataset=dict(indices=80))
val_dataloader = dict(dataset=dict(indices=100))
test_dataloader = dict(dataset=dict(indices=100))
train_cfg = dict(max_epochs={EPOCHS})
'''


FINETUNE = '''
_base_ = {prune!r}
from mmprune.config import finetune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, {pruned!r}, 0.02)
train_cfg = dict(max_epochs=1)
'''


@pytest.fixture(scope='module', name='folder')
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('schedules')
    write_prune_config(folder)
    return folder


def write_config(folder, name, schedule, **more):
    weights = more.get('weights', str(folder / 'dense.pth'))
    path = folder / f'{name}.py'
    path.write_text(CONFIG.format(base=str(folder / 'dense.py'), schedule=schedule, weights=weights))
    return path


def run(config, work_dir, options=None, **changes):
    checkpoint = dict(type='mmprune.WholeCheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=-1)
    runner = make_runner(config, work_dir, {'default_hooks.checkpoint': checkpoint, **(options or {})}, **changes)
    runner.train()
    return runner


def state_of(runner):
    return runner.model.state_dict(), runner.model.mutator.structure
