"""Runs of the real Runner on digits with a tiny budget, shared by the tests of the journey and of the hooks."""
import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from paths import TINY

from mmprune.registry import MODELS

#: Changes to the config of runs that are resumed, and of those that they are compared with.
RESUME_OPTIONS = {'train_dataloader.dataset.indices': 96, 'train_cfg.max_epochs': 2, 'train_cfg.val_interval': 1,
                  'train_dataloader.dataset.pipeline': [
                      dict(type='Resize', scale=(20, 20)), dict(type='RandomCrop', crop_size=16),
                      dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='PackClsInputs')]}

INPUT_SHAPE = (1, 3, 16, 16)
INTERVAL = 2
TARGET = 0.9
#: to be formatted with: base, weights
PRUNE = f'''
_base_ = {{base!r}}
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {{weights!r}}, {INTERVAL}, 'act', 0.5, {TARGET}, {INPUT_SHAPE})
train_dataloader = dict(batch_size=8, dataset=dict(indices=400))
val_dataloader = dict(dataset=dict(indices=100))
test_dataloader = dict(dataset=dict(indices=100))
default_hooks = dict(logger=dict(interval=5))
'''
#: to be formatted with: prune, pruned
FINETUNE = '''
_base_ = {prune!r}
from mmprune.config import finetune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, {pruned!r}, 0.02)
train_dataloader = dict(dataset=dict(indices=80))
'''
#: to be formatted with: base, fix_subnet
DEPLOY = f'''
_base_ = {{base!r}}
from mmprune.config import deploy_model
model = deploy_model(_base_, {{fix_subnet!r}}, 4, {INPUT_SHAPE})
'''


class Probe(Hook):
    """Remembers that the run came to its end, and what the model cost on the way."""

    def __init__(self):
        self.ended = []
        self.ratios = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        mutator = getattr(runner.model, 'mutator', None)
        if mutator is not None:
            self.ratios[runner.iter + 1] = mutator.cost['macs'] / mutator.complexity.cost({})['macs']

    def after_train(self, runner):
        self.ended.append('train')

    def after_run(self, runner):
        self.ended.append('run')


def write_prune_config(folder: Path) -> Path:
    """Write a dense checkpoint with random weights, copies of the configs, and return the prune config."""
    base = folder / 'dense.py'
    base.write_text(TINY.read_text())
    cfg = Config.fromfile(base)
    init_default_scope('mmcls')
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    torch.save(dict(state_dict=model.state_dict()), folder / 'dense.pth')
    path = folder / 'prune.py'
    path.write_text(PRUNE.format(base=str(base), weights=str(folder / 'dense.pth')))
    return path


def make_runner(config: Path, work_dir: Path, options=None, **changes) -> Runner:
    """Build the Runner of a config as tools/train.py does; ``options`` are merged, ``changes`` replace."""
    cfg = Config.fromfile(config)
    cfg.work_dir = str(work_dir)
    cfg.merge_from_dict(options or {})
    for key, value in changes.items():
        cfg[key] = value
    cfg.experiment_name = f'{work_dir.name}_{len(DefaultScope._instance_dict)}'  # two runs within one second
    return Runner.from_cfg(cfg)


def train(runner: Runner) -> Probe:
    """Train to the end; return what was called there."""
    probe = Probe()
    runner.register_hook(probe)
    runner.train()
    return probe


def scalars(work_dir: Path, name: str) -> list:
    """Return (step, value) of every line of the visualizer's file that has the scalar."""
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
             for line in path.read_text().splitlines()]
    return [(line['step'], line[name]) for line in lines if name in line]
