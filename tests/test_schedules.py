"""Every schedule through the real Runner: it prunes, survives a resume bit for bit, finetunes and deploys."""
import copy
import json

import numpy as np
import onnxruntime
import pytest
import torch
from digits_runs import DEPLOY, INPUT_SHAPE, make_runner, write_prune_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from toy_nets import Residual

from mmprune import Pruner
from mmprune.deploy.load import load_model
from mmprune.deploy.onnx_export import export_onnx
from mmprune.registry import HOOKS
from mmprune.schedules.soft import produces

EPOCHS, ITERATIONS = 4, 5
SCHEDULES = {
    'one_shot': dict(type='mmprune.OneShotPruningHook', criterion='FPGM', target=dict(flops=0.6), stop=False),
    'one_shot_thinet': dict(type='mmprune.OneShotPruningHook', criterion='ThiNet', target=dict(ratio=0.3), batches=2,
                            stop=False),
    'iterative': dict(type='mmprune.IterativePruningHook', criterion='Taylor', target=dict(flops=0.5), rounds=2,
                      epochs=2, start=1, batches=2),
    'soft': dict(type='mmprune.SoftPruningHook', rate_norm=0.9, rate_dist=0.3),
    'layer_by_layer': dict(type='mmprune.LayerByLayerPruningHook', criterion='ThiNet', target=dict(ratio=0.4),
                           by_epoch=False, interval=2, batches=2),
    'slimming': [dict(type='mmprune.SparsityTrainingHook', s=0.01),
                 dict(type='mmprune.IterativePruningHook', criterion='BNScale', target=dict(ratio=0.4), rounds=1,
                      start=2)],
}
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


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
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


@pytest.fixture(scope='module', params=list(SCHEDULES))
def pruned(request, folder):
    """The config and the work dir of a run that was not disturbed, and its final state."""
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_config(folder, request.param, SCHEDULES[request.param])
        runner = run(config, folder / request.param)
        return config, folder / request.param, state_of(runner), runner


def test_run_ends_in_a_smaller_model(pruned):
    _, work_dir, (state, structure), runner = pruned
    mutator = runner.model.mutator
    assert mutator.cost['macs'] < 0.9 * mutator.complexity.cost({})['macs']
    assert json.loads((work_dir / 'fix_subnet.json').read_text()) == structure
    kept = json.loads((work_dir / 'kept_channels.json').read_text())
    assert {name: len(channels) for name, channels in kept.items()} == structure
    saved = torch.load(work_dir / 'pruned.pth', map_location='cpu', weights_only=False)['state_dict']
    assert {key: value.shape for key, value in saved.items()} == {key: value.shape for key, value in state.items()}


@pytest.mark.parametrize('iteration', [3, 8, 15])
def test_resumed_run_is_the_run_that_never_stopped(pruned, tmp_path, iteration):
    """From inside the first and the second epoch, and from the end of the third."""
    config, work_dir, whole, _ = pruned
    torch.manual_seed(99)
    resumed = state_of(run(config, tmp_path, resume=True, load_from=str(work_dir / f'iter_{iteration}.pth')))
    assert resumed[1] == whole[1]
    assert all(torch.equal(value, resumed[0][key]) for key, value in whole[0].items())
    if (tmp_path / 'fix_subnet.json').exists():  # the last channels went behind the checkpoint
        assert (tmp_path / 'fix_subnet.json').read_text() == (work_dir / 'fix_subnet.json').read_text()


def test_finetune_and_deploy_to_onnxruntime(pruned, folder, tmp_path):
    config, work_dir, _, _ = pruned
    finetune = tmp_path / 'finetune.py'
    finetune.write_text(FINETUNE.format(prune=str(config), pruned=str(work_dir / 'pruned.pth')))
    runner = run(finetune, tmp_path / 'finetune')
    weights = tmp_path / 'finetune' / f'iter_{ITERATIONS}.pth'
    deploy = tmp_path / 'deploy.py'
    deploy.write_text(DEPLOY.format(base=str(folder / 'dense.py'), fix_subnet=str(work_dir / 'fix_subnet.json')))
    model = load_model(Config.fromfile(deploy), str(weights))
    x = torch.randn(INPUT_SHAPE)
    export_onnx(model, x, tmp_path / 'model.onnx')
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'), providers=['CPUExecutionProvider'])
    out, = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    runner.model.eval()
    with torch.no_grad():
        wanted = runner.model.head.fc(runner.model.extract_feat(x)[-1])
    probabilities = np.allclose(out.sum(), 1, atol=1e-4)
    wanted = wanted.softmax(1) if probabilities else wanted
    assert np.abs(out - wanted.numpy()).max() < 1e-4
