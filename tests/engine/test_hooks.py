"""The prune run beside other hooks: an EMA of the model is cut along, validated, saved and resumed."""
from types import SimpleNamespace

import pytest
import torch
from digits_runs import INTERVAL, TARGET, make_runner, scalars, train, write_prune_config
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import EMAHook, Hook
from toy_nets import Residual, ToyClassifier, algorithm_of

from mmprune.engine.structure_hook import PruningStructureHook


class CopyProbe(Hook):
    """Compares the EMA copy with the model after every iteration, and notes what validation ran on."""

    priority = 'LOWEST'

    def __init__(self):
        self.pruned, self.iterations, self.validated = 0, 0, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        own, copy = runner.model, ema(runner).module
        assert copy.mutator.structure == own.mutator.structure
        shapes = {name: p.shape for name, p in own.architecture.state_dict().items()}
        assert {name: p.shape for name, p in copy.architecture.state_dict().items()} == shapes
        self.iterations += 1
        self.pruned = sum(unit.width - unit.current_width for unit in own.mutator.units)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.validated.append(runner.model.architecture.head.fc.weight.detach().clone())


def ema(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model


@pytest.fixture(scope='module')
def prune_config(tmp_path_factory):
    return write_prune_config(tmp_path_factory.mktemp('hooks'))


def ema_runner(prune_config, work_dir, update_buffers=True, momentum=0.1, epochs=1, **changes):
    options = {'train_dataloader.dataset.indices': 48, 'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': 1}
    runner = make_runner(prune_config, work_dir, options, **changes)
    runner.register_hook(dict(type='EMAHook', momentum=momentum, update_buffers=update_buffers), priority='NORMAL')
    return runner


@pytest.mark.parametrize('update_buffers', [True, False])
def test_ema_copy_is_cut_along_validated_and_saved(prune_config, tmp_path, update_buffers):
    runner = ema_runner(prune_config, tmp_path / 'ema', update_buffers)
    probe = CopyProbe()
    runner.register_hook(probe)
    train(runner)
    assert (probe.iterations, probe.pruned) == (6, 3)
    copy, own = ema(runner).module.architecture, runner.model.architecture
    assert torch.equal(probe.validated[0], copy.head.fc.weight)  # and the weights are swapped back after it
    assert not torch.equal(copy.head.fc.weight, own.head.fc.weight)
    checkpoint = torch.load(tmp_path / 'ema' / 'epoch_1.pth', weights_only=False)
    key = 'backbone.conv1.weight'
    assert torch.equal(checkpoint['state_dict'][f'architecture.{key}'], copy.state_dict()[key])
    assert torch.equal(checkpoint['ema_state_dict'][f'module.architecture.{key}'], own.state_dict()[key])


def test_ema_really_averages_after_a_cut(prune_config, tmp_path):
    """With a momentum of 1 the average is the model itself; mmengine wants less, so 1 in float32."""
    runner = ema_runner(prune_config, tmp_path / 'copy', momentum=1 - 1e-12)
    train(runner)
    copy = ema(runner).module.architecture.state_dict()
    for name, tensor in runner.model.architecture.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(copy[name], tensor), name


@pytest.mark.parametrize('update_buffers', [True, False])
def test_resumed_ema_goes_on(prune_config, tmp_path, update_buffers):
    work_dir = tmp_path / 'resumed'
    first = ema_runner(prune_config, work_dir, update_buffers)
    train(first)
    saved = {key: value.clone() for key, value in ema(first).module.state_dict().items()}
    second = ema_runner(prune_config, work_dir, update_buffers, epochs=2, resume=True)
    loaded = {}

    class Loaded(Hook):
        def before_train_epoch(self, runner):
            loaded.update({key: value.clone() for key, value in ema(runner).module.state_dict().items()})
            loaded['iterations of the model'] = runner.model.iterations

    probe = CopyProbe()
    second.register_hook(probe)
    second.register_hook(Loaded())
    train(second)
    assert loaded.pop('iterations of the model') == 6
    assert set(loaded) == set(saved)
    for key, value in saved.items():
        assert torch.equal(loaded[key], value), key
    assert (probe.iterations, probe.pruned) == (6, 6)


class SwitchHook(Hook):
    """Switches the pipeline before the second epoch as mmdet's hooks do: persistent workers are started anew."""

    def __init__(self):
        self.sizes = []

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            loader = runner.train_dataloader
            loader.dataset.pipeline = Compose([dict(type='Resize', scale=(24, 24)), dict(type='PackClsInputs')])
            loader._DataLoader__initialized = False
            loader._iterator = None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.sizes.append(data_batch['inputs'].shape[-1])


@pytest.mark.parametrize('workers', [0, 1])
def test_switched_pipeline_reaches_the_workers(prune_config, tmp_path, workers):
    options = {'train_dataloader.dataset.indices': 16, 'train_dataloader.num_workers': workers,
               'train_dataloader.persistent_workers': workers > 0, 'train_cfg.max_epochs': 2}
    runner = make_runner(prune_config, tmp_path / 'switched', options)
    switch = SwitchHook()
    runner.register_hook(switch)
    train(runner)
    assert switch.sizes == [16, 16, 24, 24]
    assert runner.model.iterations == 4


def test_parts_of_the_architecture_are_found_on_the_algorithm(prune_config, tmp_path):
    """Hooks write to them by the names that they have in the dense model: ``model.bbox_head.use_l1 = True``."""
    algorithm = make_runner(prune_config, tmp_path / 'parts').model
    assert algorithm.head is algorithm.architecture.head
    assert algorithm.extract_feat == algorithm.architecture.extract_feat
    assert algorithm.mutator is not getattr(algorithm.architecture, 'mutator', None)
    with pytest.raises(AttributeError, match='bbox_head'):
        algorithm.bbox_head.use_l1 = True


@pytest.mark.parametrize(('logger', 'images', 'every'), [
    (dict(interval=1), 400, 1),  # due at the target; the ratio is known from the first event on
    (dict(interval=1000), 400, None),  # never due
    (dict(interval=INTERVAL + 1), 8 * INTERVAL, INTERVAL),  # due at the end of epochs shorter than its interval
    (dict(interval=INTERVAL + 1, ignore_last=False), 8 * 2 * INTERVAL, None)])  # due at the end of every epoch
def test_the_iteration_at_the_target_has_one_line(prune_config, tmp_path, logger, images, every):
    options = {f'default_hooks.logger.{key}': value for key, value in logger.items()}
    options.update({'train_dataloader.dataset.indices': images, 'train_cfg.max_epochs': 400 // images,
                    'train_cfg.val_interval': 1000})
    runner = make_runner(prune_config, tmp_path / 'run', options)
    train(runner)
    ratios = scalars(tmp_path / 'run', 'flops_ratio')
    steps = [step for step, _ in ratios]
    assert steps == sorted(set(steps))
    assert steps[-1] == runner.iter
    assert ratios[-1][1] <= TARGET
    if logger.get('ignore_last', True):
        assert steps == ([*range(INTERVAL, runner.iter + 1, every)] if every else [runner.iter])


@pytest.mark.parametrize(('own', 'dense', 'told'), [
    ([], [dict(type='StepLR')], True), (None, dict(type='StepLR'), True),
    ([dict(type='StepLR')], [dict(type='StepLR')], False),
    ([], [], False), ([], None, False)])
def test_finetuning_at_the_rate_of_the_prune_config_says_so(own, dense, told, tmp_path):
    model = torch.nn.Linear(2, 2)
    model.fix_subnet = {'a_(0, 2)_2': 1}
    lines = []
    cfg = Config(dict(param_scheduler=own, **({} if dense is None else dict(
        dense_schedule=dict(param_scheduler=dense, train_cfg=dict())))))
    runner = SimpleNamespace(model=model, work_dir=str(tmp_path), cfg=cfg, logger=SimpleNamespace(
        info=lambda line: None, warning=lines.append))
    PruningStructureHook().before_train(runner)
    assert [line.startswith('this finetuning runs by the schedule of the prune config: the learning rate is constant')
            for line in lines] == [True] * told
    runner.model = algorithm_of(ToyClassifier(Residual()), size=6)  # a model that is pruned for the second time
    PruningStructureHook().before_train(SimpleNamespace(**{**vars(runner), 'logger': SimpleNamespace(
        info=lambda line: None, warning=lines.append)}))
    assert len(lines) == told
