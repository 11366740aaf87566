"""Prune, finetune, test and deploy with the real Runner in one process, on a handful of iterations."""
import json
import logging
import subprocess
import sys

import pytest
import torch
from digits_runs import (
    DEPLOY,
    FINETUNE,
    INPUT_SHAPE,
    INTERVAL,
    TARGET,
    make_runner,
    scalars,
    train,
    write_prune_config,
)
from mmengine.config import Config

from mmprune.deploy.load import load_model
from mmprune.models.checkpoint import load_weights
from mmprune.registry import MODELS

MAX_ITERATIONS = 50  # of one epoch: 400 images in batches of 8


def widths(structure):
    return {name: int(name.rsplit('_', 1)[1]) for name in structure}


@pytest.fixture(scope='module')
def prune_config(tmp_path_factory):
    return write_prune_config(tmp_path_factory.mktemp('journey'))


@pytest.fixture(scope='module')
def pruned(prune_config):
    """(runner, probe, work dir) of a finished prune run."""
    work_dir = prune_config.parent / 'prune'
    runner = make_runner(prune_config, work_dir)
    return runner, train(runner), work_dir


@pytest.fixture(scope='module')
def finetuned(prune_config, pruned):
    config = prune_config.parent / 'finetune.py'
    config.write_text(FINETUNE.format(prune=str(prune_config), pruned=str(pruned[2] / 'flops_0.90.pth')))
    work_dir = prune_config.parent / 'finetune'
    runner = make_runner(config, work_dir)
    return runner, train(runner), work_dir


def structure_in(work_dir):
    return json.loads((work_dir / 'fix_subnet.json').read_text())


def test_prune_run_ends_at_its_target(pruned):
    runner, probe, work_dir = pruned
    algorithm = runner.model
    assert probe.ended == ['train', 'run']
    assert algorithm.iterations == runner.iter < MAX_ITERATIONS
    mutator = algorithm.mutator
    structure = structure_in(work_dir)
    assert structure == mutator.structure
    removed = sum(widths(structure).values()) - sum(structure.values())
    assert removed == algorithm.iterations // INTERVAL
    ratio = mutator.cost['macs'] / mutator.complexity.cost({})['macs']
    assert TARGET - 0.05 < ratio <= TARGET
    state = torch.load(work_dir / 'flops_0.90.pth', weights_only=False)['state_dict']
    kept = {key[len('mutator.kept.'):]: int(value.sum()) for key, value in state.items() if '.kept.' in key}
    assert kept == structure
    assert state['architecture.backbone.conv1.weight'].shape[0] == structure['backbone.conv1_(0, 8)_8']


def test_ratio_and_score_reach_the_visualizer(pruned):
    """Each line with the ratio of its own iteration, down to that at the target."""
    runner, probe, work_dir = pruned
    ratios = scalars(work_dir, 'flops_ratio')
    assert ratios == [(step, probe.ratios[step]) for step, _ in ratios]
    assert [step for step, _ in ratios] == [*range(5, runner.iter, 5), runner.iter]
    assert ratios[0][1] > TARGET >= ratios[-1][1]
    assert all(score >= 0 for _, score in scalars(work_dir, 'pruned_score'))


def test_finetuned_model_really_has_the_shapes(pruned, finetuned):
    runner, probe, work_dir = finetuned
    structure = structure_in(pruned[2])
    assert probe.ended == ['train', 'run']
    assert structure_in(work_dir) == structure == dict(runner.model.fix_subnet)
    parameters = dict(runner.model.named_parameters())
    for name, count in structure.items():
        assert parameters[f'{name.split("_(")[0]}.weight'].shape[0] == count, name
    assert sum(p.numel() for p in parameters.values()) == pruned[0].model.mutator.cost['params']
    saved = torch.load(work_dir / 'epoch_1.pth', weights_only=False)['state_dict']
    assert set(saved) == set(runner.model.state_dict())
    assert saved['backbone.conv1.weight'].shape == parameters['backbone.conv1.weight'].shape


def test_finetuning_starts_with_the_pruned_weights(prune_config, pruned, finetuned):
    cfg = Config.fromfile(prune_config.parent / 'finetune.py')
    model = MODELS.build(cfg.model).eval()
    model.init_weights()  # what the Runner does before it trains
    x = torch.randn(2, *INPUT_SHAPE[1:])
    # the prune run ended with the checkpoint that finetuning loads
    with torch.no_grad():
        assert torch.equal(model(x), pruned[0].model.eval().architecture(x))


def test_testing_gives_an_accuracy(pruned, finetuned):
    for runner, _, _ in (pruned, finetuned):
        accuracy = runner.test()['accuracy/top1']
        assert 0 <= accuracy <= 100


@pytest.mark.parametrize('divisor', [1, 4])
def test_deployed_model_computes_what_the_finetuned_one_does(prune_config, finetuned, divisor):
    runner, _, work_dir = finetuned
    config = prune_config.parent / 'deploy.py'
    config.write_text(DEPLOY.format(base=str(prune_config.parent / 'dense.py'),
                                    fix_subnet=str(work_dir / 'fix_subnet.json')))
    cfg = Config.fromfile(config)
    cfg.model.divisor = divisor
    model = load_model(cfg, str(work_dir / 'epoch_1.pth'))
    x = torch.randn(2, *INPUT_SHAPE[1:])
    with torch.no_grad():
        wanted, found = runner.model.eval()(x), model(x)
    assert (wanted - found).abs().max() <= 1e-5 * wanted.abs().max()
    assert all(count % divisor == 0 for count in model.fix_subnet.values())


def test_pruned_checkpoint_fits_the_deploy_model(prune_config, pruned):
    """As it is, for a look at a pruned model before it is finetuned."""
    runner, _, work_dir = pruned
    architecture = Config.fromfile(prune_config).model.architecture
    architecture.init_cfg = None
    model = MODELS.build(dict(type='mmprune.GroupFisherDeploySubModel', architecture=architecture,
                              fix_subnet=str(work_dir / 'fix_subnet.json'),
                              demo_input=dict(type='mmprune.DemoInput', input_shape=INPUT_SHAPE)))
    load_weights(model, str(work_dir / 'flops_0.90.pth'))
    x = torch.randn(2, *INPUT_SHAPE[1:])
    with torch.no_grad():
        assert torch.equal(model.eval()(x), runner.model.eval().architecture(x))


REBUILD = '''
import json, sys
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
assert 'mmprune' not in sys.modules
cfg = Config.fromfile(sys.argv[1])
assert 'mmprune' not in sys.modules
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model)
print(json.dumps({key: list(value.shape) for key, value in model.state_dict().items()}))
'''


@pytest.mark.parametrize('stage', ['prune', 'finetune'])
def test_dumped_config_rebuilds_the_model_alone(pruned, finetuned, stage, tmp_path):
    """Without the config files that it came from, and without importing mmprune first."""
    runner, _, work_dir = dict(prune=pruned, finetune=finetuned)[stage]
    copy = tmp_path / 'moved.py'
    copy.write_text((work_dir / f'{stage}.py').read_text())
    assert '_base_ =' not in copy.read_text()
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', REBUILD, str(copy)], capture_output=True, text=True,
                          cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shapes = json.loads(done.stdout.splitlines()[-1])
    if stage == 'finetune':
        assert shapes == {key: list(value.shape) for key, value in runner.model.state_dict().items()}
    else:  # dense at first; cut when a checkpoint is loaded
        assert set(shapes) == set(runner.model.state_dict())


def test_iteration_based_run_ends_at_its_target(prune_config):
    work_dir = prune_config.parent / 'by_iteration'
    runner = make_runner(prune_config, work_dir, {'default_hooks.checkpoint.by_epoch': False},
                         train_cfg=dict(by_epoch=False, max_iters=80, val_interval=1000),
                         log_processor=dict(by_epoch=False))
    probe = train(runner)
    assert probe.ended == ['train', 'run']
    assert runner.iter == runner.model.iterations < 80
    assert runner.iter % INTERVAL == 0
    assert structure_in(work_dir) == runner.model.mutator.structure
    assert (work_dir / 'flops_0.90.pth').is_file()


def test_target_that_is_not_reached_warns(prune_config, caplog):
    work_dir = prune_config.parent / 'short'
    runner = make_runner(prune_config, work_dir, {'train_dataloader.dataset.indices': 40})
    runner.logger.addHandler(caplog.handler)
    assert train(runner).ended == ['train', 'run']
    warning = [record.getMessage() for record in caplog.records
               if record.levelno == logging.WARNING and 'target' in record.getMessage()]
    assert len(warning) == 2  # at the start and at the end
    assert 'this run will probably miss its target' in warning[0]
    assert 'above the target 0.9: no checkpoint was written for it' in warning[1]
    assert not (work_dir / 'flops_0.90.pth').exists()
    assert not (work_dir / 'fix_subnet.json').exists()
