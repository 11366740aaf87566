"""Prune and finetune with two processes through dist_train.sh, on CPU over gloo."""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
ROOT = TESTS.parent

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


def dist_train(config: Path, work_dir: Path, *options: str) -> None:
    launch('dist_train.sh', str(config), '2', '--work-dir', str(work_dir), *options)


def launch(script: str, *arguments: str) -> None:
    env = dict(os.environ, PYTHON=sys.executable, PORT=str(free_port()), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='',
               PYTHONPATH=str(TESTS))
    done = subprocess.run(['bash', str(ROOT / 'tools' / script), *arguments], env=env, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.fixture(scope='module')
def prune_config(tmp_path_factory):
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


@pytest.fixture(scope='module')
def pruned(prune_config):
    work_dir = prune_config.parent / 'prune'
    dist_train(prune_config, work_dir)
    return work_dir


def ranks(work_dir: Path):
    return [torch.load(work_dir / f'rank{rank}.pt', weights_only=False) for rank in (0, 1)]


def differing(left, right):
    """Names of tensors that differ, but for batch statistics: they are each rank's own."""
    return [key for key in left if 'running_' not in key
            and (left[key].shape != right[key].shape or not torch.equal(left[key], right[key]))]


def test_ranks_prune_the_same_and_stay_bit_equal(pruned):
    first, second = ranks(pruned)
    assert differing(first['state'], second['state']) == []
    assert first['iterations'] == second['iterations'] < 44  # ended at the target, inside its only epoch
    structure = json.loads((pruned / 'fix_subnet.json').read_text())
    kept = {key[len('mutator.kept.'):]: int(value.sum()) for key, value in first['state'].items() if '.kept.' in key}
    assert kept == structure
    assert sum(kept.values()) < sum(int(name.rsplit('_', 1)[1]) for name in kept)
    assert (pruned / 'flops_0.90.pth').is_file()


def test_ranks_see_different_data(pruned):
    """The bit-equality is the work of the synchronisation: each rank has its own losses."""
    first, second = ranks(pruned)
    assert len(first['losses']) == first['iterations']
    assert all(left != right for left, right in zip(first['losses'], second['losses']))


def test_a_run_without_gradient_sync_is_another_run(prune_config, pruned):
    work_dir = prune_config.parent / 'unsynchronised'
    dist_train(prune_config, work_dir, '--cfg-options', 'model_wrapper_cfg.type=mmprune.WithoutSync')
    first, second = ranks(work_dir)
    assert differing(first['state'], second['state'])
    assert differing(first['state'], ranks(pruned)[0]['state'])


def test_finetuning_keeps_ranks_bit_equal(prune_config, pruned):
    config = prune_config.parent / 'finetune.py'
    config.write_text(FINETUNE.format(prune=str(prune_config), pruned=str(pruned / 'flops_0.90.pth')))
    text = config.read_text() + "custom_hooks.append(dict(type='mmprune.RankProbe'))\n"
    config.write_text(text)
    work_dir = prune_config.parent / 'finetune'
    dist_train(config, work_dir)
    first, second = ranks(work_dir)
    assert differing(first['state'], second['state']) == []
    structure = json.loads((pruned / 'fix_subnet.json').read_text())
    assert json.loads((work_dir / 'fix_subnet.json').read_text()) == structure
    assert first['state']['backbone.conv1.weight'].shape[0] == structure['backbone.conv1_(0, 8)_8']

    # two processes test what one does
    accuracies = []
    for count in (1, 2):
        metrics = work_dir / f'metrics{count}.json'
        launch('dist_test.sh', str(config), str(work_dir / 'epoch_1.pth'), str(count), '--work-dir', str(work_dir),
               '--json', str(metrics))
        accuracies.append(json.loads(metrics.read_text())['accuracy/top1'])
    assert accuracies[0] > 10
    assert accuracies[0] == pytest.approx(accuracies[1])


def test_resumed_ranks_stay_bit_equal(prune_config):
    """The wrapper is built on the dense model, the checkpoint cuts it."""
    work_dir = prune_config.parent / 'resumed'
    target = 'custom_hooks.2.save_ckpt_thr=[0.3]'
    dist_train(prune_config, work_dir, '--cfg-options', target)
    before = ranks(work_dir)[0]
    dist_train(prune_config, work_dir, '--resume', '--cfg-options', target, 'train_cfg.max_epochs=2')
    first, second = ranks(work_dir)
    assert differing(first['state'], second['state']) == []
    assert first['iterations'] == 2 * before['iterations'] == 88
    kept = [sum(int(value.sum()) for key, value in run['state'].items() if '.kept.' in key) for run in (before, first)]
    assert kept[0] - kept[1] == 22  # one channel every second iteration
