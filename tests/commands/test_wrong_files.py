"""Files of the wrong kind, and what they are given for: one line that says what to do."""
import gc

import numpy as np
import pytest
import torch
import toy_nets
from digits_runs import write_prune_config
from mmengine.config import Config
from paths import TINY
from toy_nets import ToyClassifier

from mmprune.arguments import UserError
from mmprune.command_line import mistake_in_config
from mmprune.commands import main
from mmprune.config import distilled_model, finetune_settings, prune_settings, pruning_model
from mmprune.engine.training_config import data_named
from mmprune.models.checkpoint import load_weights
from mmprune.pruning.pruner import Pruner
from mmprune.registry import MODELS, build
from mmprune.units.mutator import ChannelMutator


@pytest.fixture(autouse=True)
def local_rank(monkeypatch):
    """The commands set it if nothing else does."""
    monkeypatch.setenv('LOCAL_RANK', '0')


def message_of(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert '\n' not in str(caught.value)
    return str(caught.value)



def command_error(capsys, *argv):
    """Run a command that must end with status 2 and one line; return the line."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, argv)))
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count('\n') == 1
    return error.rstrip()


def test_checkpoint_of_torchvision_names_its_converter(tmp_path):
    path = tmp_path / 'mobilenet_v2.pth'
    keys = ('features.0.0.weight', 'features.18.0.weight', 'classifier.1.weight')
    torch.save({key: torch.zeros(2, 2) for key in keys}, path)
    message = message_of(load_weights, ToyClassifier('Residual'), str(path))
    assert message.endswith('; it is a mobilenet_v2 of torchvision: convert it with '
                            'tools/model_converters/from_torchvision.py (mmprune convert-torchvision)')


def test_finetuned_checkpoint_with_a_prune_config(tmp_path, capsys):
    prune = write_prune_config(tmp_path)
    assert command_error(capsys, 'test', prune, tmp_path / 'dense.pth', '--work-dir', tmp_path / 'w') == (
        f"error: checkpoint: '{tmp_path / 'dense.pth'}' holds no pruned structure; it must be a checkpoint of a prune "
        'run, such as flops_0.50.pth. A finetuned checkpoint belongs to its finetune config')


@pytest.mark.parametrize(('inputs', 'message'), [
    (np.zeros((1, 3, 6, 6)), 'example_inputs has an array of numpy of shape (1, 3, 6, 6); the model takes tensors: '
                             'torch.from_numpy makes one of it'),
    ((np.zeros((1, 3)), 1), 'example_inputs has an array of numpy of shape (1, 3); '),
    (dict(x=np.zeros(3)), 'example_inputs has an array of numpy of shape (3,); '),
    ((1, 3, 224, 224), 'example_inputs is (1, 3, 224, 224); it must be a tensor, a tuple of positional or a dict of '
                       'keyword arguments of the model, with a tensor among them'), (None, 'example_inputs is None; '),
    (torch.nn.Identity(), 'example_inputs is Identity(); it must be '),
    (dict(x=torch.zeros(1, 3, 6, 6, device='meta')),
     'example_inputs has a tensor without values (device meta); the model runs on it: torch.randn makes one')])
def test_example_inputs_that_are_no_tensors(inputs, message):
    assert message_of(Pruner, toy_nets.Residual(), inputs, 'L1').startswith(message)


def test_a_model_without_values():
    assert message_of(Pruner, toy_nets.Residual().to('meta'), torch.zeros(1, 3, 6, 6), 'L1').endswith(
        "of Residual has no values (device meta): give it some first, by model.to_empty(device=\"cpu\") and "
        'model.load_state_dict(...)')


def test_missing_data_names_the_variable(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('MMPRUNE_DATA', raising=False)
    config = tmp_path / 'train.py'
    config.write_text(f"_base_ = {str(TINY)!r}\ndata_root = '{{{{$MMPRUNE_DATA:data}}}}/cells/'\n"
                      "train_dataloader = dict(dataset=dict(_delete_=True, type='CustomDataset', pipeline=[],\n"
                      "                        data_prefix=data_root + 'images', ann_file=data_root + 'meta.txt'))\n")
    monkeypatch.chdir(tmp_path)
    argv = ['train', config, '--work-dir', tmp_path / 'w', '--cfg-options']
    error = command_error(capsys, *argv, 'experiment_name=missing')
    assert error.endswith("'data/cells/meta.txt'. The config reads its data from the folder that the environment "
                          "variable MMPRUNE_DATA names; it is not set, so it is 'data'")
    monkeypatch.setenv('MMPRUNE_DATA', '/nowhere')
    assert command_error(capsys, *argv, 'experiment_name=nowhere').endswith(
        "MMPRUNE_DATA names; it is '/nowhere'")


@pytest.mark.parametrize('error', [FileNotFoundError('no x.json'), AssertionError('x.json does not exist')])
def test_missing_file_of_a_config_without_the_variable(error):
    with pytest.raises(FileNotFoundError, match='^(no x.json|x.json does not exist)$'), data_named(Config(dict(a=1))):
        raise error


def test_two_stages_are_exported_by_mmdeploy(tmp_path, capsys):
    config = tmp_path / 'detector.py'
    config.write_text("model = dict(type='TwoStageDetector', rpn_head=dict(type='RPNHead'), roi_head=dict(type='X'))\n")
    assert command_error(capsys, 'export', config, 'none', '--out', tmp_path / 'x.onnx', '--image', config) == (
        f'mmprune export: error: {config} is a detector of two stages, the second of which reads what the first finds: '
        'mmprune deploy exports it, by mmdeploy')


@pytest.mark.filterwarnings('ignore:unclosed file:ResourceWarning')
@pytest.mark.parametrize(('text', 'problem'), [
    ('model = dict(', ': SyntaxError: '),
    ('a = 1\nmodel = dict(type=NoName)\n', "NameError: name 'NoName' is not defined"),
    ('a = 1\nx = [].nothing\n', 'AttributeError: '), ('a = 1\nx = {}["model"]\n', "KeyError: 'model'")])
def test_config_with_an_error_in_it(text, problem, tmp_path, capsys):
    config = tmp_path / 'config.py'
    config.write_text(text)
    error = command_error(capsys, 'cost', config)
    gc.collect()  # the file that mmengine leaves open
    assert error.startswith(f"error: config '{config}' cannot be read")
    assert problem in error
    assert text.startswith('model') or ', at line 2 of ' in error


def test_configs_that_are_none(tmp_path, capsys):
    text, other = tmp_path / 'config.txt', tmp_path / 'other.py'
    text.write_text('model = 1')
    other.write_text('a = 1')
    assert command_error(capsys, 'cost', text).endswith('is no config: its suffix is none of .py, .json, .yaml, .yml')
    assert command_error(capsys, 'cost', tmp_path) == f"error: config '{tmp_path}' is a folder"
    for name in ('cost', 'train'):
        assert command_error(capsys, name, other) == f"error: config '{other}' has no model"


@pytest.mark.parametrize(('options', 'problem'), [
    ('model.type=Nothing', 'Nothing is not in the mmcls::model registry'),
    ('model.backbone.dept=18', "ResNet_CIFAR: ResNet.__init__() got an unexpected keyword argument 'dept'"),
    ('model.backbone.depth=19', 'invalid depth 19'),
    ('model.head=5', "cfg should be a dict, ConfigDict or Config, but got <class 'int'>")])
def test_type_or_argument_that_is_none(options, problem, capsys):
    """What mmengine raises while it builds the model."""
    error = command_error(capsys, 'cost', TINY, '--cfg-options', options)
    assert error.startswith('error: ')
    assert problem in error
    assert error.endswith('; it is in the config or in one of its bases')


@pytest.mark.parametrize(('options', 'message'), [
    ('optim_wrapper.optimizer.lr=-1', 'SGD: Invalid learning rate: -1; it is in the config or in one of its bases'),
    ('train_dataloader.batch_size=0', 'BatchSampler: batch_size should be a positive integer value, but got '
                                      'batch_size=0; it is in the config or in one of its bases'),
    ('train_dataloader=5', 'train_dataloader of the config is 5; it must be a dict')])
def test_value_that_torch_refuses(options, message, tmp_path, capsys):
    assert command_error(capsys, 'train', TINY, '--work-dir', tmp_path, '--cfg-options', options,
                         f'experiment_name={tmp_path.name}') == f'error: {message}'


def test_only_constructors_of_other_packages_are_mistakes_of_a_config():
    class Broken:
        def __init__(self, fails):
            fails()

    def inside():
        raise ValueError('a bug')

    for cfg, found in ((dict(type=Broken, fails=5), "Broken: 'int' object is not callable"),
                       (dict(type=Broken, fails=inside), None), (dict(type='NoSuch'), 'NoSuch is not in the ')):
        with pytest.raises((TypeError, ValueError, KeyError)) as caught:
            MODELS.build(cfg)
        text = mistake_in_config(caught.value)
        assert text is None if found is None else text.startswith(found)
    with pytest.raises(ValueError, match='a bug') as caught:
        inside()
    assert mistake_in_config(caught.value) is None


def test_option_that_leads_nowhere(capsys):
    error = command_error(capsys, 'cost', TINY, '--cfg-options', 'pipeline.7.scale=3')
    assert error.startswith('error: --cfg-options: ')


def algorithm_cfg(channels):
    return dict(type='PruningAlgorithm', architecture=dict(type='ToyClassifier', net='Residual'), mutator=dict(
        type='ChannelMutator', demo_input=dict(type='DemoInput', input_shape=(1, channels, 6, 6))))


def test_input_that_the_model_does_not_take(capsys):
    error = command_error(capsys, 'cost', TINY, '--input-shape', 1, 4, 16, 16)
    assert error.startswith('error: ImageClassifier does not run on the input (1, 4, 16, 16) (input_shape): '
                            'RuntimeError: Given groups=1, weight of size [8, 3, 3, 3]')
    assert 'does not run on the input (1, 4, 6, 6)' in message_of(build, MODELS, algorithm_cfg(4))


def test_error_of_the_tracer_stays_a_traceback(monkeypatch):
    """Only what the model itself raises is a mistake of the user."""
    monkeypatch.setattr(ChannelMutator, 'prepare', lambda *args: [][0])
    with pytest.raises(IndexError):
        build(MODELS, algorithm_cfg(3))


def test_base_of_another_stage():
    dense = dict(model=dict(type='X'))
    assert message_of(finetune_settings, dense, 'x.pth', 0.1) == \
        'the base is no prune config: it has no model.architecture'
    assert message_of(distilled_model, dense, 'x.pth') == \
        'the base is no finetune config: it has no model.algorithm.architecture'
    assert message_of(prune_settings, dense, 'x.pth', 5, 'act', 0.1, 0.5) == \
        'the base is no config of a training: it has no optim_wrapper.optimizer.lr'
    assert message_of(pruning_model, {}, None) == 'the base is no config of a model: it has no model'
