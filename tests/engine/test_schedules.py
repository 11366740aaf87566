"""Every schedule through the real Runner: it prunes, survives a resume bit for bit, finetunes and deploys."""
import copy
import json

import numpy as np
import onnxruntime
import pytest
import torch
from digits_runs import DEPLOY, INPUT_SHAPE, make_runner
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from schedule_runs import FINETUNE, ITERATIONS, make_folder, run, state_of, write_config  # noqa: F401 (a fixture)

from mmprune.deploy.load import load_model
from mmprune.deploy.onnx_export import export_onnx
from mmprune.registry import HOOKS

pytestmark = pytest.mark.long

SCHEDULES = {
    'one_shot': dict(type='mmprune.OneShotPruningHook', criterion='FPGM', target=dict(flops=0.6), stop=False),
    'one_shot_thinet': dict(type='mmprune.OneShotPruningHook', criterion='ThiNet', target=dict(ratio=0.3), batches=2,
                            stop=False),
    'one_shot_measured': dict(type='mmprune.OneShotPruningHook', criterion='MeasuredError', target=dict(flops=0.6),
                              batches=6, stop=False),
    'iterative': dict(type='mmprune.IterativePruningHook', criterion='Taylor', target=dict(flops=0.5), rounds=2,
                      epochs=2, start=1, batches=2),
    'repaired': dict(type='mmprune.IterativePruningHook', criterion='L2', target=dict(flops=0.6), rounds=2, epochs=2,
                     start=1, repair=dict(images=40)),
    'soft': dict(type='mmprune.SoftPruningHook', rate_norm=0.9, rate_dist=0.3),
    'layer_by_layer': dict(type='mmprune.LayerByLayerPruningHook', criterion='ThiNet', target=dict(ratio=0.4),
                           by_epoch=False, interval=2, batches=2),
    'slimming': [dict(type='mmprune.SparsityTrainingHook', s=0.01),
                 dict(type='mmprune.IterativePruningHook', criterion='BNScale', target=dict(ratio=0.4), rounds=1,
                      start=2)],
}


@pytest.fixture(scope='module', params=list(SCHEDULES))
def pruned(request, folder):
    """The config and the work dir of a run that was not disturbed, and its final state."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the tests have it: sums depend on it
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_config(folder, request.param, SCHEDULES[request.param])
        runner = run(config, folder / request.param)
    torch.set_num_threads(threads)
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


def short_run(folder, tmp_path, schedule, epochs=1, register=(), options=None, **more):
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_config(folder, f'config_{tmp_path.name}', schedule, **more)
        runner = make_runner(config, tmp_path, {'train_cfg.max_epochs': epochs, **(options or {})})
        for hook in register:
            runner.register_hook(hook)
        runner.train()
    return runner


class Outputs(Hook):
    """Remembers what the model computes for fixed images before each validation and at the end."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.x = torch.randn(4, *INPUT_SHAPE[1:], generator=torch.Generator().manual_seed(0))
        self.seen = []

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.seen.append(self(runner))

    def __call__(self, runner):
        architecture = copy.deepcopy(runner.model.architecture).double().eval()
        with torch.no_grad():
            return architecture.extract_feat(self.x.double())[-1]


def test_softly_pruned_model_computes_what_the_cut_one_computes(folder, tmp_path):
    outputs = Outputs()
    runner = short_run(folder, tmp_path, dict(type='mmprune.SoftPruningHook', rate_dist=0.4), 2, [outputs],
                       {'train_cfg.val_interval': 1})
    assert len(outputs.seen) == 2
    zeroed, cut = outputs.seen[-1], outputs(runner)
    kept = runner.model.mutator
    assert kept.cost['macs'] < 0.6 * kept.complexity.cost({})['macs']
    assert torch.allclose(zeroed, cut, rtol=0, atol=1e-10 * float(zeroed.abs().max()))


class Zeros(Hook):
    """Counts the filters of one layer that are zero, before and after each epoch."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.before, self.after = [], []

    def count(self, runner):
        weight = runner.model.architecture.backbone.layer1[0].conv1.weight
        return int((weight.flatten(1) == 0).all(1).sum())

    def before_train_epoch(self, runner):
        self.before.append(self.count(runner))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.last = self.count(runner)

    def after_train_epoch(self, runner):
        self.after.append((self.last, self.count(runner)))


@pytest.mark.parametrize('start', ['pretrained', 'scratch'])
def test_filters_that_are_zero_recover(folder, tmp_path, start):
    zeros = Zeros()
    more = {} if start == 'pretrained' else dict(weights=None)
    short_run(folder, tmp_path, dict(type='mmprune.SoftPruningHook', rate_dist=0.5, epoch_prune=2), 4, [zeros], **more)
    assert zeros.before == [4, 0, 4, 0]  # zeroed at the start and after the second epoch, trained in between
    assert zeros.after == [(0, 0), (0, 4), (0, 0), (0, 4)]


def test_layers_by_the_numbers_of_parameters(folder, tmp_path):
    """As the authors' scripts count: begin, end, step over the model's parameters; a conv and its norm are three."""
    schedule = dict(type='mmprune.SoftPruningHook', rate_dist=0.5, layers=dict(begin=0, end=11, step=3))
    runner = short_run(folder, tmp_path, schedule)
    names = [name for name, _ in runner.model.architecture.named_parameters()]
    assert [names[number] for number in (0, 3, 6, 9)] == [
        'backbone.conv1.weight', 'backbone.layer1.0.conv1.weight', 'backbone.layer1.0.conv2.weight',
        'backbone.layer1.1.conv1.weight']
    changed = {name for name, count in runner.model.mutator.structure.items()
               if count < int(name.rpartition('_')[2])}
    # the stem's channels are also those of layer1.1.conv2, which the numbers leave out
    assert changed == {'backbone.layer1.0.conv1_(0, 8)_8', 'backbone.layer1.1.conv1_(0, 8)_8'}


def test_layers_by_pattern(folder, tmp_path):
    runner = short_run(folder, tmp_path, dict(type='mmprune.SoftPruningHook', rate_dist=0.5, layers='backbone.layer2'))
    changed = {name.split('_(')[0] for name, count in runner.model.mutator.structure.items()
               if count < int(name.rpartition('_')[2])}
    assert changed == {'backbone.layer2.0.conv1', 'backbone.layer2.0.conv2', 'backbone.layer2.1.conv1'}


def test_zeroing_changes_filters_and_shifts_only(folder, tmp_path):
    class Watch(Hook):
        priority = 'VERY_HIGH'

        def before_train(self, runner):
            self.before = {name: tensor.clone() for name, tensor in runner.model.architecture.state_dict().items()}

        def before_train_epoch(self, runner):
            state = runner.model.architecture.state_dict()
            self.changed = {name for name, tensor in state.items() if not torch.equal(tensor, self.before[name])}
            self.shift = state['backbone.layer1.0.bn1.bias'].clone()

        def before_val(self, runner):
            self.trained = copy.deepcopy(runner.model.state_dict())

        def after_val(self, runner, metrics=None):
            self.same = all(torch.equal(tensor, self.trained[name])
                            for name, tensor in runner.model.state_dict().items())

    watch = Watch()
    short_run(folder, tmp_path, dict(type='mmprune.SoftPruningHook', rate_dist=0.5), 1, [watch],
              {'train_cfg.val_interval': 1})
    assert not [name for name in watch.changed if 'bn' in name and not name.endswith('bias')]
    assert 'backbone.layer1.0.conv1.weight' in watch.changed
    assert sorted(watch.shift.tolist()) == pytest.approx([0.0] * 4 + [0.01] * 4)
    assert watch.same  # validation has left nothing


def test_one_shot_ends_the_run(folder, tmp_path):
    zeros = Zeros()
    schedule = dict(type='mmprune.OneShotPruningHook', criterion='L1', target=dict(flops=0.5))
    runner = short_run(folder, tmp_path, schedule, register=[zeros])
    assert runner.iter == 0
    assert not zeros.before
    share = runner.model.mutator.cost['macs'] / runner.model.mutator.complexity.cost({})['macs']
    assert 0.4 < share <= 0.5
    assert (tmp_path / 'pruned.pth').exists()


def test_rounds_go_the_same_share_of_the_way(folder, tmp_path):
    class Costs(Hook):
        shares = []

        def after_train_epoch(self, runner):
            mutator = runner.model.mutator
            self.shares.append(mutator.cost['macs'] / mutator.complexity.cost({})['macs'])

    costs = Costs()
    short_run(folder, tmp_path, dict(type='mmprune.IterativePruningHook', criterion='L2', target=dict(
        flops=0.4, scope='global'), rounds=3, epochs=1, start=1), 4, [costs])
    assert [share <= bound < share + 0.05 for share, bound in zip(costs.shares, (1.0, 0.8, 0.6, 0.4))] == [True] * 4


def test_layer_by_layer_prunes_one_unit_a_turn(folder, tmp_path):
    class Changes(Hook):
        structures = []

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.structures.append(runner.model.mutator.structure)

    changes = Changes()
    runner = short_run(folder, tmp_path, dict(
        type='mmprune.LayerByLayerPruningHook', criterion='L2', target=dict(levels={'backbone.layer2': 0.5}),
        by_epoch=False, interval=2), 2, [changes])
    steps = [[name for name in before if before[name] != after[name]]
             for before, after in zip(changes.structures, changes.structures[1:])]
    names = list(runner.model.mutator.structure)
    turns = [name for name in names if name.startswith('backbone.layer2')]
    assert [step for step in steps if step] == [[turns[1]], [turns[2]]]  # the first went before the first iteration
    assert changes.structures[0][turns[0]] == 8
    assert steps[:2] == [[], [turns[1]]]


def test_sparsity_training_adds_its_gradient_once_a_step(folder, tmp_path):
    """Against the penalty by autograd, with accumulation and clipping: the hook comes behind both."""
    class Steps(Hook):
        def before_train(self, runner):
            self.scale = runner.model.architecture.backbone.bn1.weight
            step = runner.optim_wrapper.optimizer.step
            self.grads = []

            def stepped(*args, **kwargs):
                before = self.scale.grad.clone(), self.scale.detach().clone()
                result = step(*args, **kwargs)
                self.grads.append((*before, self.scale.grad.clone()))
                return result

            runner.optim_wrapper.optimizer.step = stepped

    steps = Steps()
    options = {'optim_wrapper.accumulative_counts': 2, 'optim_wrapper.clip_grad': dict(max_norm=1e-3)}
    short_run(folder, tmp_path, dict(type='mmprune.SparsityTrainingHook', s=0.25), register=[steps], options=options)
    assert len(steps.grads) == 3  # five iterations, the last one alone
    for before, scale, after in steps.grads:
        leaf = scale.clone().requires_grad_()
        penalty, = torch.autograd.grad(0.25 * leaf.abs().sum(), leaf)
        assert torch.allclose(after - before, penalty)
        assert float(before.norm()) < 1.1e-3


@pytest.mark.parametrize(('schedule', 'error', 'message'), [
    (dict(type='mmprune.OneShotPruningHook', criterion='L3', target=dict(ratio=0.3)), ValueError,
     "criterion is 'L3'; it must be one of APoZ, BNScale, DCP, FPGM"),
    (dict(type='mmprune.OneShotPruningHook', criterion='L2', target=dict(ration=0.3)), ValueError,
     "no 'ration', did you mean 'ratio'"),
    (dict(type='mmprune.OneShotPruningHook', criterion='L2', target=dict(levels={'backbone.layer9': 0.3})), ValueError,
     "no conv or linear layer matches 'backbone.layer9'"),
    (dict(type='mmprune.OneShotPruningHook', criterion='L2', target=dict(flops=0.0001)), ValueError,
     'cannot be reached'),
    (dict(type='mmprune.IterativePruningHook', criterion='L2', target=dict(ratio=0.3), rounds=3), ValueError,
     'the last of 3 rounds comes after 2 epochs, but the run has 1'),
    (dict(type='mmprune.SoftPruningHook', layers='backbone.layer9'), ValueError, "matches 'backbone.layer9'"),
    (dict(type='mmprune.SoftPruningHook', layers=dict(begin=4, end=5)), ValueError, 'name no unit as a whole'),
])
def test_mistakes_say_what_to_do(folder, tmp_path, schedule, error, message):
    with pytest.raises(error, match=message):
        short_run(folder, tmp_path, schedule)


@pytest.mark.parametrize(('type_name', 'options', 'message'), [
    ('SoftPruningHook', dict(criterion='L2'), 'criterion and target come together'),
    ('SoftPruningHook', dict(layers=dict(begin=3)), 'it needs begin and end, and a step of 1 or more'),
    ('SoftPruningHook', dict(layers=dict(begin=3, end=9, step=0)), 'it needs begin and end, and a step of 1 or more'),
    ('SoftPruningHook', dict(layers=dict(begin=3, end=9, inter=3)), 'layers has inter=3; it takes begin, end and step'),
    ('SoftPruningHook', dict(layers=dict(begin='conv1', end=9)), "layers has begin='conv1'; it takes"),
    ('SoftPruningHook', dict(epoch_prune=0), 'epoch_prune is 0'),
    ('IterativePruningHook', dict(criterion='L2', target=dict(ratio=0.3), rounds=0), 'rounds is 0'),
    ('LayerByLayerPruningHook', dict(criterion='L2', target=dict(ratio=0.3), interval=0), 'interval is 0'),
    ('OneShotPruningHook', dict(criterion='L2', target=dict(ratio=0.3), batches=0), 'batches is 0'),
    ('SparsityTrainingHook', dict(s=-1), 's is -1'),
])
def test_wrong_arguments(type_name, options, message):
    with pytest.raises(ValueError, match=message):
        HOOKS.build(dict(type=f'mmprune.{type_name}', **options))


def test_schedule_needs_a_pruning_algorithm(folder, tmp_path):
    with DefaultScope.overwrite_default_scope('mmcls'):
        runner = make_runner(folder / 'dense.py', tmp_path, {'train_dataloader.dataset.indices': 80}, custom_hooks=[
            dict(type='mmprune.SoftPruningHook')])
        with pytest.raises(TypeError, match='needs a PruningAlgorithm, the model is ImageClassifier'):
            runner.train()
