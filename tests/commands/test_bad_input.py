"""What a user gets wrong, and the message that says what, where and what to do."""
import copy
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy_nets
from mmengine.optim import OptimWrapper
from paths import ROOT
from torch import nn
from toy_nets import ToyClassifier, algorithm_of, mutator_cfg, randomise

from mmprune.arguments import UserError
from mmprune.command_line import run
from mmprune.deploy.onnx_runtime import ParityError
from mmprune.engine.hook import ResourceInfoHook
from mmprune.engine.structure_hook import PruningStructureHook
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.models.checkpoint import CheckpointError
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.models.prune_sub_model import GroupFisherSubModel
from mmprune.registry import MODELS, build
from mmprune.units.mutator import ChannelMutator, NoPrunableUnitError
from mmprune.units.structure import StructureError, read_structure, write_structure

DEMO = dict(type='DemoInput', input_shape=(1, 3, 6, 6))


def message_of(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# checkpoints


def algorithm_cfg(pretrained=None, pruned=None, net='Residual'):
    architecture = dict(type='ToyClassifier', net=net)
    if pretrained:
        architecture['init_cfg'] = dict(type='Pretrained', checkpoint=str(pretrained))
    cfg = dict(type='GroupFisherAlgorithm', architecture=architecture, mutator=mutator_cfg(size=6))
    if pruned:
        cfg['init_cfg'] = dict(type='Pretrained', checkpoint=str(pruned))
    return cfg


def initialise(**kwargs):
    algorithm = build(MODELS, algorithm_cfg(**kwargs))
    algorithm.init_weights()
    return algorithm


def pruned_checkpoint(path):
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=6)
    algorithm.mutator.apply_structure({'net.stem_(0, 6)_6': 4, 'net.conv1_(0, 5)_5': 3})
    torch.save(dict(state_dict=algorithm.state_dict()), path)
    return algorithm


def test_good_checkpoints_load(tmp_path):
    """The frame of the tests below."""
    dense = ToyClassifier(toy_nets.Residual())
    torch.save(dict(state_dict=dense.state_dict()), tmp_path / 'dense.pth')
    loaded = initialise(pretrained=tmp_path / 'dense.pth').architecture.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in dense.state_dict().items())
    pruned = pruned_checkpoint(tmp_path / 'pruned.pth')
    model = GroupFisherSubModel(algorithm_cfg(pruned=tmp_path / 'pruned.pth'))
    assert model.fix_subnet == {'net.stem_(0, 6)_6': 4, 'net.conv1_(0, 5)_5': 3}
    assert torch.equal(model.net.conv1.weight, pruned.architecture.net.conv1.weight)


@pytest.mark.parametrize('role', ['pretrained', 'pruned'])
def test_missing_checkpoint(role, tmp_path):
    path = tmp_path / 'no_such.pth'
    assert message_of(CheckpointError, initialise, **{role: path}) == (
        f"{role}_path: there is no file '{path}'; set {role}_path to the path or URL of a checkpoint")


@pytest.mark.parametrize('role', ['pretrained', 'pruned'])
@pytest.mark.parametrize('damage', ['truncated', 'text', 'empty', 'json'])
def test_corrupt_checkpoint(role, damage, tmp_path):
    path = tmp_path / 'corrupt.pth'
    pruned_checkpoint(path)
    content = {'truncated': path.read_bytes()[:3000], 'text': b'<html>404: not found</html>', 'empty': b'',
               'json': b'{"state_dict": {}}'}[damage]
    path.write_bytes(content)
    message = message_of(CheckpointError, initialise, **{role: path})
    assert message.startswith(f"{role}_path: '{path}' is not a readable PyTorch checkpoint (")
    assert message.endswith('); is the file complete?')


def test_file_without_a_state_dict(tmp_path):
    path = tmp_path / 'list.pth'
    torch.save([1, 2, 3], path)
    assert message_of(CheckpointError, initialise, pretrained=path) == \
        f"pretrained_path: '{path}' holds no state dict; it must be a dict of tensors, or hold one as 'state_dict'"


def test_checkpoint_of_another_model(tmp_path):
    path = tmp_path / 'concat.pth'
    torch.save(ToyClassifier(toy_nets.Concat()).state_dict(), path)
    message = message_of(CheckpointError, initialise, pretrained=path)
    assert message.startswith(f"pretrained_path: '{path}' is not a checkpoint of this ToyClassifier; ")
    # Residual: stem 2, bn0 4, conv1 1, bn1 4, conv2 1, bn2 4, fc 2
    assert "18 keys are missing, first 'net.stem.weight'" in message


def test_checkpoint_of_another_width_names_the_shapes(tmp_path):
    path, wide = tmp_path / 'wide.pth', ToyClassifier(toy_nets.Residual())
    wide.net.fc = nn.Linear(6, 10)
    torch.save(wide.state_dict(), path)
    assert message_of(CheckpointError, initialise, pretrained=path).endswith(
        '; 2 shapes differ, first net.fc.weight: (10, 6) in the file, (4, 6) in the model')


def test_keys_without_their_prefix_name_the_nearest(tmp_path):
    path = tmp_path / 'bare.pth'
    torch.save(toy_nets.Residual().state_dict(), path)
    assert "first 'net.stem.weight', did you mean 'stem.weight'" in message_of(
        CheckpointError, initialise, pretrained=path)


def test_dense_checkpoint_given_as_pruned_path(tmp_path):
    path = tmp_path / 'dense.pth'
    torch.save(dict(state_dict=ToyClassifier(toy_nets.Residual()).state_dict()), path)
    message = message_of(CheckpointError, GroupFisherSubModel, algorithm_cfg(pruned=path))
    assert message == (f"pruned_path: '{path}' holds no pruned structure; it must be a checkpoint of a prune run, such "
                       'as flops_0.50.pth. A finetuned checkpoint belongs to its finetune config')


def test_checkpoint_of_mmrazor_given_as_pruned_path(tmp_path):
    path, state = tmp_path / 'mmrazor.pth', ToyClassifier(toy_nets.Residual()).state_dict()
    state = {f'architecture.{key}': value for key, value in state.items()}
    state['mutator.units.0.mutable_channel.mask'] = torch.ones(6)
    torch.save(dict(state_dict=state), path)
    message = message_of(CheckpointError, GroupFisherSubModel, algorithm_cfg(pruned=path))
    assert message == (f"pruned_path: '{path}' was written by mmrazor; convert it with "
                       'tools/model_converters/from_mmrazor.py')


def test_pruned_checkpoint_of_another_model(tmp_path):
    path = tmp_path / 'pruned.pth'
    pruned_checkpoint(path)
    lines = message_of(StructureError, initialise, pruned=path, net='Concat').splitlines()
    assert lines[0] == f"pruned_path: the structure of '{path}' does not fit this model:"
    assert lines[1].startswith("  unknown unit 'net.stem_(0, 6)_6'")
    assert "  unit 'net.a_(0, 4)_4' is missing" in lines


# structures

GOOD = {'stem_(0, 6)_6': 4, 'conv1_(0, 5)_5': 3}


def deploy(fix_subnet, divisor=1, net=toy_nets.Residual):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True), DEMO)
    mutator.prepare(net())
    mutator.apply_structure(read_structure(fix_subnet))
    return mutator


def test_good_structure_is_taken():
    assert deploy(GOOD).structure == GOOD


@pytest.mark.parametrize(('change', 'problem'), [
    ({'zz': 3}, "unknown unit 'zz'"),
    ({'stem_(0, 6)_6': None, 'stm_(0, 6)_6': 4}, "unknown unit 'stm_(0, 6)_6', did you mean 'stem_(0, 6)_6'?"),
    ({'stem_(0, 6)_6': None, 'conv1_(0, 5)_5': None}, "it names none of the 2 units, such as 'stem_(0, 6)_6'"),
    ({'stem_(0, 6)_6': None, 'conv1_(0, 5)_5': 9}, "unit 'stem_(0, 6)_6' is missing"),
    ({'stem_(0, 6)_6': 0}, "'stem_(0, 6)_6': 0 channels; the unit has 6, so 1 to 6 can stay"),
    ({'stem_(0, 6)_6': -2}, "'stem_(0, 6)_6': -2 channels; the unit has 6, so 1 to 6 can stay"),
    ({'stem_(0, 6)_6': 7}, "'stem_(0, 6)_6': 7 channels; the unit has 6, so 1 to 6 can stay"),
    ({'stem_(0, 6)_6': 4.0}, "'stem_(0, 6)_6': 4.0 is not a whole number of channels"),
    ({'stem_(0, 6)_6': True}, "'stem_(0, 6)_6': True is not a whole number of channels"),
    ({'stem_(0, 6)_6': '4'}, "'stem_(0, 6)_6': '4' is not a whole number of channels")])
def test_structure_that_does_not_fit(change, problem):
    structure = {name: count for name, count in {**GOOD, **change}.items() if count is not None}
    lines = message_of(StructureError, deploy, structure).splitlines()
    assert lines[0] == 'fix_subnet does not fit this model:'
    assert f'  {problem}' in lines


def test_all_problems_of_a_structure_are_listed_at_once():
    lines = message_of(StructureError, deploy, {'a': 1, 'conv1_(0, 5)_5': 0}).splitlines()
    assert lines[1:] == ["  unknown unit 'a'", "  'conv1_(0, 5)_5': 0 channels; the unit has 5, so 1 to 5 can stay",
                         "  unit 'stem_(0, 6)_6' is missing"]


def test_count_that_a_grouped_conv_does_not_allow():
    message = message_of(StructureError, deploy, {'stem_(0, 6)_6': 3, 'g_(0, 4)_4': 2}, net=toy_nets.Grouped)
    assert message.endswith("'stem_(0, 6)_6': 3 channels; they are tied in sets of 2, so the count must be a multiple "
                            'of that')


def test_structure_that_does_not_fit_changes_nothing():
    mutator = deploy({'stem_(0, 6)_6': 6, 'conv1_(0, 5)_5': 5})
    with pytest.raises(StructureError):
        mutator.apply_structure({'stem_(0, 6)_6': 4, 'conv1_(0, 5)_5': 0})
    assert mutator.structure == {'stem_(0, 6)_6': 6, 'conv1_(0, 5)_5': 5}
    assert mutator.model.stem.weight.shape == (6, 3, 3, 3)


def test_structure_file_that_is_missing(tmp_path):
    path = str(tmp_path / 'fix_subnet.json')
    assert message_of(StructureError, read_structure, path) == (
        f"fix_subnet: there is no file '{path}'. A prune run writes fix_subnet.json into its work dir")


@pytest.mark.parametrize(('content', 'problem'), [
    (b'{"stem": 3,', 'is not json (Expecting property name'), (b'stem: 3', 'is not json (Expecting value'),
    (b'', 'is not json (Expecting value'), (b'\xff\xfe\x00', 'is not json ('),
    (b'[3, 4]', 'holds a list, not an object {"unit name": channels}'),
    (b'12', 'holds a int, not an object {"unit name": channels}')])
def test_structure_file_that_is_no_structure(content, problem, tmp_path):
    path = tmp_path / 'fix_subnet.json'
    path.write_bytes(content)
    assert message_of(StructureError, read_structure, path).startswith(f"fix_subnet: '{path}' {problem}")


def test_structure_that_is_neither_dict_nor_path():
    assert message_of(StructureError, read_structure, 12) == (
        'fix_subnet is a int; it must be a dict {"unit name": channels} or the path of a json file')


def test_deploy_sub_model_reports_the_structure():
    message = message_of(StructureError, GroupFisherDeploySubModel, toy_nets.Residual(), {'conv1_(0, 5)_5': 9},
                         demo_input=DEMO)
    assert "'conv1_(0, 5)_5': 9 channels; the unit has 5" in message


# arguments


@pytest.mark.parametrize('interval', [0, -1, 1.5, True, '25'])
def test_interval_that_is_no_positive_whole_number(interval):
    assert message_of(ValueError, GroupFisherAlgorithm, ToyClassifier(toy_nets.Residual()), interval=interval) == (
        f'interval is {interval!r}; it is the number of iterations between two prune events, so it must be a whole '
        'number of 1 or more')


@pytest.mark.parametrize('hook', [PruningStructureHook, ResourceInfoHook])
@pytest.mark.parametrize('interval', [0, -1, 1.5])
def test_interval_of_a_hook(hook, interval):
    assert message_of(ValueError, hook, interval=interval) == \
        f'{hook.__name__}: interval is {interval!r}; it must be a whole number of 1 or more'


@pytest.mark.parametrize('ratio', [0, 1, 1.5, -0.5, True, '0.5'])
def test_target_ratio_outside_0_and_1(ratio):
    assert message_of(ValueError, ResourceInfoHook, save_ckpt_thr=[ratio]) == (
        f'the target ratio is {ratio!r}; it is what stays of the dense flops, so it must lie between 0 and 1')


def test_no_target_ratio():
    assert message_of(ValueError, ResourceInfoHook, save_ckpt_thr=[]) == \
        'ResourceInfoHook: save_ckpt_thr is empty; it must hold at least one target ratio'


def runner_of(model, **kwargs):
    return SimpleNamespace(cfg={}, max_iters=1000, max_epochs=1, iter=0, model=model, hooks=[],
                           logger=logging.getLogger(__name__), train_loop=SimpleNamespace(dataloader=[]), **kwargs)


def test_target_that_is_already_met():
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=6)
    algorithm.mutator.apply_structure({'net.stem_(0, 6)_6': 1, 'net.conv1_(0, 5)_5': 1})
    # 36 positions: stem 27, conv1 9, conv2 9 a position, fc 4; dense 162 + 270 + 270 and 24
    ratio = (36 * (27 + 9 + 9) + 4) / (36 * (162 + 270 + 270) + 24)
    assert message_of(ValueError, ResourceInfoHook(save_ckpt_thr=[0.5]).before_train, runner_of(algorithm)) == (
        f'the target is already met: flops are at {ratio:.4f} of the dense model, the target is 0.5')
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=6)
    algorithm.mutator.apply_structure({'net.stem_(0, 6)_6': 3, 'net.conv1_(0, 5)_5': 2})
    hook = ResourceInfoHook(save_ckpt_thr=[0.5, 0.1])
    hook.before_train(runner_of(algorithm))
    assert hook.pending == [0.1]


def test_resource_type_typo():
    assert message_of(ValueError, ResourceInfoHook, resource_type='flop') == (
        "ResourceInfoHook: resource_type is 'flop', did you mean 'flops'?; it must be one of 'flops', 'params', "
        "'acts', 'latency'")


def test_hook_on_a_model_that_is_not_pruned():
    assert message_of(TypeError, ResourceInfoHook().before_train, runner_of(toy_nets.Residual())) == (
        'ResourceInfoHook needs a GroupFisherAlgorithm, the model is Residual')


def test_normalization_type_typo():
    message = message_of(ValueError, algorithm_of, ToyClassifier(toy_nets.Residual()), normalization_type='flop')
    assert ("normalization_type is 'flop', did you mean 'flops'?; it must be one of 'act', 'flops', 'none', "
            "'latency'") in message


@pytest.mark.parametrize(('change', 'owner'), [
    (lambda cfg: cfg.update(intervall=3), 'GroupFisherAlgorithm'),
    (lambda cfg: cfg['mutator'].update(intervall=3), 'GroupFisherChannelMutator'),
    (lambda cfg: cfg['mutator']['channel_unit_cfg'].update(intervall=3), 'GroupFisherChannelUnit'),
    (lambda cfg: cfg['mutator']['demo_input'].update(intervall=3), 'DemoInput')])
def test_unknown_keyword_is_named(change, owner):
    cfg = algorithm_cfg()
    change(cfg)
    message = message_of(TypeError, build, MODELS, cfg)
    assert "got an unexpected keyword argument 'intervall'" in message
    assert owner in message


@pytest.mark.parametrize('divisor', [0, -8, 1.5, True, '8', 10**9])
@pytest.mark.parametrize('build_model', [
    lambda divisor: GroupFisherSubModel(algorithm_cfg(), divisor),
    lambda divisor: GroupFisherDeploySubModel(toy_nets.Residual(), GOOD, divisor, DEMO)], ids=['finetune', 'deploy'])
def test_divisor_that_is_no_positive_whole_number(build_model, divisor):
    assert message_of(ValueError, build_model, divisor) == (
        f'divisor is {divisor!r}; channels are made a multiple of it, so it must be whole and from 1 to 1024')


@pytest.mark.parametrize('shape', [(3,), (1, 3, 0, 8), (1, 3, 8.0, 8), (1, -3, 8, 8)])
def test_input_shape_that_is_none(shape):
    message = message_of(ValueError, build, MODELS, dict(
        type='ChannelMutator', demo_input=dict(type='DemoInput', input_shape=shape)))
    assert f'input_shape must be positive sizes with the batch first, like (1, 3, 224, 224); it is {shape}' in message


def test_architecture_that_is_no_model():
    assert message_of(TypeError, GroupFisherAlgorithm, 'resnet50.py') == (
        "GroupFisherAlgorithm: architecture is 'resnet50.py'; it must be a dict or an nn.Module")


# models that cannot be pruned


def test_model_without_a_prunable_unit_says_why():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4), nn.Conv2d(4, 2, 1))
    assert message_of(NoPrunableUnitError, ChannelMutator(demo_input=DEMO).prepare, net) == (
        'Sequential has no unit that may be pruned:\n'
        "  0_(0, 4)_4: group_norm normalises across channels in module '1'")


def test_model_whose_only_unit_is_read_by_a_linear_layer_says_what_to_do():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert "  0_(0, 4)_4: linear layer '3' is coupled to it (mutate_linear=True prunes it)" in message_of(
        NoPrunableUnitError, ChannelMutator(demo_input=DEMO).prepare, net).splitlines()


def test_model_without_any_layer():
    net = nn.Sequential(nn.BatchNorm2d(3))
    assert message_of(NoPrunableUnitError, ChannelMutator(demo_input=DEMO).prepare, net) == (
        'Sequential has no unit that may be pruned:\n  it calls no conv or linear layer')


def test_functional_layer_cannot_be_scored():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return nn.functional.conv2d(self.a(x), self.b.weight)

    message = message_of(NoPrunableUnitError, build(MODELS, mutator_cfg(size=6)).prepare, Functional())
    assert ("  a_(0, 4)_4: 'b.weight' is used outside the conv or linear module that owns it, where no score can be "
            'recorded') in message.splitlines()


# numbers that are none


class Fragile(ToyClassifier):
    """Its loss is NaN or inf in the iterations named."""

    iteration, value, bad = 0, float('nan'), ()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = super().forward(inputs, data_samples, mode)
        if mode == 'loss':
            self.iteration += 1
            if self.iteration in self.bad:
                out = dict(loss=out['loss'] * self.value)
        return out


class SkippingOptimWrapper(OptimWrapper):
    """Leaves out steps whose loss is not finite, as a gradient scaler does."""

    def update_params(self, loss, step_kwargs=None, zero_kwargs=None):
        super().update_params(loss, step_kwargs, zero_kwargs)

    def step(self, **kwargs):
        if all(bool(p.grad.isfinite().all()) for group in self.param_groups for p in group['params']
               if p.grad is not None):
            super().step(**kwargs)


def run_with_bad_loss(monkeypatch, value, bad, wrapper, steps=6):
    """Train with interval 2 and return classes left after each step, and the warnings."""
    warnings = []
    monkeypatch.setattr('mmprune.group_fisher.algorithm.print_log', lambda text, logger, level=20: (
        warnings.append(text) if level >= 30 else None))
    model = randomise(Fragile(toy_nets.Residual()))
    model.bad, model.value = bad, value
    algorithm = algorithm_of(model, interval=2, size=6)
    wrapper = wrapper(torch.optim.SGD(algorithm.parameters(), lr=0.01))
    left = []
    for _ in range(steps):
        algorithm.train_step(dict(inputs=torch.randn(4, 3, 6, 6), data_samples=torch.randint(4, (4,))), wrapper)
        left.append(sum(unit.num_sets for unit in algorithm.mutator.units))
    return left, warnings


def test_nan_loss_skips_the_prune_warns_and_goes_on(monkeypatch):
    """Iteration 3 is bad: the event of iteration 4 is skipped, the next one prunes."""
    left, warnings = run_with_bad_loss(monkeypatch, float('nan'), [3], SkippingOptimWrapper)
    assert left == [11, 10, 10, 10, 10, 9]
    assert warnings == ["iteration 4: the score of unit 'net.stem_(0, 6)_6' and 1 more is NaN; this prune is skipped. "
                        'Lower lr_ratio if it recurs']


def test_nan_weights_skip_every_prune_but_do_not_end_the_run(monkeypatch):
    left, warnings = run_with_bad_loss(monkeypatch, float('nan'), [3], OptimWrapper)
    assert left == [11, 10, 10, 10, 10, 10]
    assert [text.split(':')[0] for text in warnings] == ['iteration 4', 'iteration 6']


def test_infinite_scores_skip_the_prune(monkeypatch):
    """inf is no least score: what it would pick is arbitrary, or dropped already."""
    texts = []
    monkeypatch.setattr('mmprune.group_fisher.algorithm.print_log', lambda text, logger, level=20: texts.append(text))
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=6)
    algorithm.mutator.fisher.fill_(float('inf'))
    assert algorithm.prune([]) == []
    assert algorithm.mutator.structure == {'net.stem_(0, 6)_6': 6, 'net.conv1_(0, 5)_5': 5}
    assert texts == ["iteration 0: the score of unit 'net.stem_(0, 6)_6' and 1 more is infinite; this prune is "
                     'skipped. Lower lr_ratio if it recurs']
    algorithm.mutator.fisher.copy_(torch.arange(11.0))
    algorithm.mutator.fisher[6:] = float('inf')  # one unit is infinite: the least of the other goes
    assert algorithm.prune([])[0][:2] == ('net.stem_(0, 6)_6', 0)


# files


def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'fix_subnet.json'
    write_structure({'a': 1}, path)

    def no_space(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    def half_written(file, text, **kwargs):
        file.write_bytes(text[:3].encode())
        no_space()

    for owner, function, failing in ((os, 'replace', no_space), (Path, 'write_text', half_written)):
        with monkeypatch.context() as patched:
            patched.setattr(owner, function, failing)
            with pytest.raises(OSError, match='No space left'):
                write_structure({'a': 2}, path)
        assert json.loads(path.read_text()) == {'a': 1}
        assert [file.name for file in tmp_path.iterdir()] == ['fix_subnet.json']
    write_structure({'a': 2}, path)
    assert path.read_text() == '{\n    "a": 2\n}\n'
    assert path.stat().st_mode & 0o777 == 0o644


def test_failing_checkpoint_leaves_the_old_one(tmp_path):
    """The target's checkpoint is written under another name first."""
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=6)
    hook = ResourceInfoHook(save_ckpt_thr=[0.5])
    hook.before_train(runner_of(algorithm))
    old = tmp_path / 'flops_0.50.pth'
    old.write_bytes(b'old')

    def save_checkpoint(out_dir, filename, **kwargs):
        (tmp_path / filename).write_bytes(b'half a checkpoi')
        raise OSError(28, 'No space left on device')

    runner = runner_of(algorithm, work_dir=str(tmp_path), save_checkpoint=save_checkpoint)
    with pytest.raises(OSError, match='No space left'):
        hook._save(runner, 0.5, 0.49)
    assert old.read_bytes() == b'old'
    assert not (tmp_path / 'fix_subnet.json').exists()


def test_good_checkpoint_replaces_the_old_one(tmp_path):
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=6)
    hook = ResourceInfoHook(save_ckpt_thr=[0.5])
    hook.before_train(runner_of(algorithm))
    (tmp_path / 'flops_0.50.pth').write_bytes(b'old')

    def save_checkpoint(out_dir, filename, **kwargs):
        torch.save(dict(state_dict=algorithm.state_dict()), tmp_path / filename)

    hook._save(runner_of(algorithm, work_dir=str(tmp_path), save_checkpoint=save_checkpoint), 0.5, 0.49)
    assert sorted(file.name for file in tmp_path.iterdir()) == ['fix_subnet.json', 'flops_0.50.pth']
    loaded = initialise(pruned=tmp_path / 'flops_0.50.pth')
    assert loaded.mutator.structure == algorithm.mutator.structure


def test_config_is_not_changed_by_building_from_it():
    cfg = algorithm_cfg()
    before = copy.deepcopy(cfg)
    build(MODELS, cfg)
    assert cfg == before


#: What no user can cause: contracts between parts of the package.
OWN_MISTAKES = {'units/unit.py', 'group_fisher/ops.py'}


def test_mistakes_of_users_end_a_command_with_one_line():
    """A plain ValueError would be a traceback."""
    package = ROOT / 'mmprune'
    raising = {path.relative_to(package).as_posix() for path in package.rglob('*.py')
               if 'raise ValueError(' in path.read_text() and '.mim' not in path.parts}
    assert raising == OWN_MISTAKES


@pytest.mark.parametrize('error', [ParityError('differs'), CheckpointError('torn'), UserError('0 is no divisor')])
def test_one_line(error, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f'error: {error}\n'


# wrong kinds of values


@pytest.mark.parametrize('divisor', [1025, 10**9])
def test_divisor_that_would_fill_the_memory(divisor):
    assert message_of(UserError, GroupFisherDeploySubModel, toy_nets.Residual(), GOOD, divisor, DEMO) == (
        f'divisor is {divisor}; channels are made a multiple of it, so it must be whole and from 1 to 1024')


@pytest.mark.parametrize(('key', 'value', 'message'), [
    ('mutator', 7, 'GroupFisherAlgorithm: mutator is 7; it must be a dict or None'),
    ('mutator', {'a': 1}, "{'a': 1} stands where the config of a model is expected, a dict with its type"),
    ('channel_unit_cfg', [1], 'mutator.channel_unit_cfg is [1]; it must be a dict with the type of the units'),
    ('channel_unit_cfg', {'a': 1}, "mutator.channel_unit_cfg is {'a': 1}; it must be a dict with the type of the "),
    ('demo_input', 'x', "GroupFisherChannelMutator: demo_input is 'x'; it must be a dict or a list or None"),
    ('mutate_linear', 'yes', "mutate_linear is 'yes'; it must be True or False")])
def test_config_value_of_another_kind(key, value, message):
    cfg = algorithm_cfg()
    owner = {'mutator': cfg, 'mutate_linear': cfg['mutator']['channel_unit_cfg']}.get(key, cfg['mutator'])
    owner[key] = value
    assert message in message_of(UserError, build, MODELS, cfg)


def test_target_ratios_that_are_no_list():
    assert message_of(UserError, ResourceInfoHook, save_ckpt_thr=0.5) == (
        'ResourceInfoHook: save_ckpt_thr is 0.5; it must be a list of numbers')


def test_onnx_file_that_is_none(tmp_path):
    pytest.importorskip('onnxruntime')
    from mmprune.deploy.onnx_runtime import OnnxError, OnnxModel  # an optional dependency

    path = tmp_path / 'x.onnx'
    for content in (None, b'', b'<html>', bytes(1000)):
        if content is not None:
            path.write_bytes(content)
        message = message_of(OnnxError, OnnxModel, path)
        assert message.startswith(f"'{path}' is no ONNX file that onnxruntime can run (")
        assert len(message.splitlines()) == 1
