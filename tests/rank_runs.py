"""Runs of two processes through dist_train.sh, on CPU over gloo."""
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT, TESTS

PRUNE = '''
_base_ = {dense!r}
interval = 2
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {weights!r}, interval, 'act', 0.5, 0.9, (1, 3, 16, 16))
custom_hooks.append(dict(type='mmprune.RankProbe'))
custom_imports = dict(imports=['rank_probe'], allow_failed_imports=False)
'''


FINETUNE = '''
_base_ = {prune!r}
from mmprune.config import finetune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, {pruned!r}, 0.02)
'''


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def dist_train(config: Path, work_dir: Path, *options: str, misses: bool = False) -> None:
    """Train with two ranks; a run that ends above its target fails, once it has written all."""
    launch('dist_train.sh', str(config), '2', '--work-dir', str(work_dir), *options, misses=misses)


def launch(script: str, *arguments: str, misses: bool = False, devices: str = '') -> None:
    env = dict(os.environ, PYTHON=sys.executable, PORT=str(free_port()), OMP_NUM_THREADS='1',
               CUDA_VISIBLE_DEVICES=devices, PYTHONPATH=str(TESTS))
    done = subprocess.run(['bash', str(ROOT / 'tools' / script), *arguments], env=env, capture_output=True, text=True,
                          timeout=300)
    assert (done.returncode != 0) == misses, done.stdout[-3000:] + done.stderr[-3000:]
    assert ('error: the run ended at' in done.stderr) == misses, done.stderr[-3000:]


@pytest.fixture(scope='module', name='prune_config')
def make_prune_config(tmp_path_factory):
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    folder = tmp_path_factory.mktemp('dist')
    dense = TESTS / 'configs' / 'tiny_digits.py'
    cfg = Config.fromfile(dense)
    init_default_scope('mmcls')
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    weights = folder / 'dense.pth'
    torch.save(dict(state_dict=model.state_dict()), weights)
    config = folder / 'prune.py'
    config.write_text(PRUNE.format(dense=str(dense), weights=str(weights)))
    return config


def ranks(work_dir: Path):
    return [torch.load(work_dir / f'rank{rank}.pt', weights_only=False) for rank in (0, 1)]


def differing(left, right):
    """Names of tensors that differ, but for batch statistics: they are each rank's own."""
    return [key for key in left if 'running_' not in key
            and (left[key].shape != right[key].shape or not torch.equal(left[key], right[key]))]
