"""Padding to a divisor changes widths and nothing else; exported files compute what PyTorch computes."""
import copy
import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from fake_runtimes import Clock, FakeRuntime
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import load_state_dict as mmengine_load
from paths import ROOT
from torch import nn
from toy_nets import Concat, Depthwise, Everything, Flatten, Grouped, Residual, Shared, ToyClassifier

from mmprune.commands import main
from mmprune.deploy.beside_dense import BesideDense, NotFasterError, beside_dense, is_pruned, require_faster, verdict
from mmprune.deploy.comparison import compare
from mmprune.deploy.divisor_search import DIVISORS, DivisorResult, Search, format_results, search
from mmprune.deploy.image import image_input, sample_image
from mmprune.deploy.load import load_model, with_divisor
from mmprune.deploy.onnx_export import HAS_DYNAMO, DeployOutput, export_onnx
from mmprune.deploy.onnx_runtime import OnnxModel, ParityError, check_parity
from mmprune.deploy.runtimes.pytorch import Torch
from mmprune.graph.nested import output_tensors
from mmprune.models.checkpoint import CheckpointError
from mmprune.models.divisor import pad
from mmprune.models.from_config import read_config
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.units.equivalence import random_masks, randomise, relative_difference
from mmprune.units.mutator import ChannelMutator
from mmprune.units.structure import StructureError

pytest.importorskip('onnxruntime')
pytest.importorskip('mmcls')
MOBILENET = 'configs/mmcls/group_fisher/mobilenet/group_fisher_act_deploy_mobilenet-v2_8xb32_in1k.py'
EXPORTERS = ['torchscript']
if HAS_DYNAMO and importlib.util.find_spec('onnxscript'):
    EXPORTERS.append('dynamo')


def prepared(net, size=8, seed=0):
    """Return the mutator of a toy net, linear layers included, random channels of every unit dropped."""
    randomise(net, seed)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, size, size)))
    mutator.prepare(net.eval())
    mutator.cut(random_masks(mutator.units, 0.4, seed))
    return mutator


def output_of(model, x):
    with torch.no_grad():
        return output_tensors(model(x))


@pytest.mark.parametrize('divisor', DIVISORS)
@pytest.mark.parametrize(('net', 'size'), [(Everything, 8), (Residual, 8), (Concat, 8), (Depthwise, 8), (Grouped, 8),
                                           (Shared, 8), (Flatten, 6)])
def test_padding_changes_widths_and_no_output(net, size, divisor):
    mutator = prepared(net(), size)
    x = torch.randn(3, 3, size, size)
    before, widths = output_of(mutator.model, x), mutator.structure
    pad(mutator, divisor)
    assert relative_difference(before, output_of(mutator.model, x)) < 1e-5
    for unit in mutator.units:
        step = math.lcm(divisor, unit.multiplicity)
        assert unit.current_width == -(-widths[unit.name] // step) * step
        for member in unit.channels.members:  # a producer or consumer can belong to several units
            tensor = mutator.model.get_parameter(member.axis.tensor) if 'running' not in member.axis.tensor else \
                mutator.model.get_buffer(member.axis.tensor)
            assert tensor.size(member.axis.dim) == len(mutator.layout(member.axis.tensor)[member.axis.dim])


@pytest.mark.parametrize('exporter', EXPORTERS)
@pytest.mark.parametrize('divisor', [1, 8])
def test_onnx_parity_of_everything(divisor, exporter, tmp_path):
    mutator = prepared(Everything())
    x = torch.randn(2, 3, 8, 8)
    before = output_of(mutator.model, x)
    pad(mutator, divisor)
    wrapped = export_onnx(mutator.model, x, tmp_path / 'x.onnx', exporter=exporter)
    onnx_model = OnnxModel(tmp_path / 'x.onnx')
    assert check_parity(onnx_model, wrapped, x) < 1e-5
    assert relative_difference(before, onnx_model(x)) < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ['x.onnx']


def test_original_width_is_no_multiple():
    net = nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 4, 1))
    randomise(net, 0)
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    mutator.prepare(net.eval())
    mutator.apply_structure({'0_(0, 20)_20': 17})
    x = torch.randn(2, 3, 8, 8)
    before = output_of(net, x)
    pad(mutator, 16)
    assert net[0].weight.shape == (32, 3, 3, 3)
    assert net[1].running_var.shape == (32, )
    assert net[3].weight.shape == (4, 32, 1, 1)
    assert net[3].weight[:, 17:].abs().max() == 0
    assert relative_difference(before, output_of(net, x)) < 1e-6
    assert mutator.cost['macs'] == 8 * 8 * (32 * 3 * 9 + 4 * 32)


def test_linear_behind_a_flatten_is_padded_in_whole_channels():
    mutator = prepared(Flatten(), 6)
    pad(mutator, 8)
    assert mutator.model.conv.weight.shape == (8, 3, 3, 3)
    assert mutator.model.fc1.weight.shape == (8, 8 * 9)
    assert mutator.model.fc1.in_features == 72


def test_grouped_conv_keeps_its_groups():
    mutator = prepared(Grouped())
    pad(mutator, 8)
    assert mutator.model.g.groups == 2
    assert mutator.model.g.in_channels == 8
    assert mutator.model.g.weight.shape == (8, 4, 3, 3)


def deploy_toy(net, divisor, mutate_linear=False):
    """Return a deploy sub-model of a toy net with every unit pruned by one class."""
    dense, demo_input = ToyClassifier(net), dict(type='DemoInput', input_shape=(1, 3, 8, 8))
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=mutate_linear), demo_input)
    mutator.prepare(copy.deepcopy(dense))
    structure = {unit.name: unit.width - unit.multiplicity for unit in mutator.units}
    return GroupFisherDeploySubModel(dense, structure, divisor, demo_input, mutate_linear=mutate_linear)


@pytest.mark.parametrize('divisor', [0, -1, 1.5, True, '8', None])
def test_impossible_divisor(divisor):
    with pytest.raises(ValueError, match=r'divisor is .*must be whole and from 1 to 1024'):
        deploy_toy(Residual(), divisor)
    with pytest.raises(ValueError, match=r'divisor is .*must be whole and from 1 to 1024'):
        search(read_config(str(ROOT / MOBILENET)), divisors=[1, divisor])


@pytest.mark.parametrize(('mutate_linear', 'hidden'), [(False, 14), (True, 16)])
def test_switch_to_deploy_pads_once(mutate_linear, hidden):
    model = deploy_toy(Everything(), 8, mutate_linear)
    assert model.net.fc1.out_features == (13 if mutate_linear else 14)
    randomise(model, 0)
    model.eval()
    x = torch.randn(2, 3, 8, 8)
    before, structure = output_of(model, x), dict(model.fix_subnet)
    assert any(count % 8 for count in structure.values())
    model.switch_to_deploy()
    padded = dict(model.fix_subnet)
    assert all(count % 8 == 0 for count in padded.values())
    assert relative_difference(before, output_of(model, x)) < 1e-5
    assert model.net.fc1.out_features == hidden
    model.switch_to_deploy()
    assert model.fix_subnet == padded


def test_whoever_loads_another_checkpoint_is_told():
    """mmengine's loader, which upstream's deploy.py uses, would only log it."""
    model = deploy_toy(Residual(), 1)
    dense = ToyClassifier(Residual()).state_dict()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=r'is fix_subnet its structure.*shapes differ, first net\.'):
        mmengine_load(model, dense)
    with pytest.raises(CheckpointError, match=r'keys are missing'):
        mmengine_load(model, {'other.weight': torch.ones(1)})
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    mmengine_load(model, before)


# the published MobileNetV2


@pytest.fixture(scope='module')
def mobilenet(tmp_path_factory):
    """Config, checkpoint and unpadded model of the published act structure, for 64 x 64 images."""
    cfg = read_config(str(ROOT / MOBILENET))
    cfg.model.demo_input.input_shape = (1, 3, 64, 64)
    model = load_model(with_divisor(cfg, 1), 'none')
    path = tmp_path_factory.mktemp('mobilenet') / 'finetuned.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return cfg, str(path), model


@pytest.mark.parametrize('divisor', DIVISORS)
def test_published_mobilenet_under_every_divisor(mobilenet, divisor, tmp_path):
    cfg, checkpoint, unpadded = mobilenet
    x = torch.randn(2, 3, 64, 64)
    model = load_model(with_divisor(cfg, divisor), checkpoint)
    assert len(model.fix_subnet) == len(unpadded.fix_subnet) == 24
    assert all(count % divisor == 0 for count in model.fix_subnet.values())
    assert model.fix_subnet == {name: -(-count // divisor) * divisor for name, count in unpadded.fix_subnet.items()}
    with torch.no_grad():
        wanted = unpadded(x, mode='tensor')
        assert relative_difference([wanted], [model(x, mode='tensor')]) < 1e-5
    wrapped = export_onnx(model, x, tmp_path / 'x.onnx')
    assert check_parity(OnnxModel(tmp_path / 'x.onnx'), wrapped, x) < 1e-4
    assert relative_difference([wanted.softmax(1)], OnnxModel(tmp_path / 'x.onnx')(x)) < 1e-4


def test_search_counts_and_names_the_fastest(mobilenet):
    cfg, checkpoint, _ = mobilenet
    found = search(cfg, checkpoint, [1, 8, 8], shape=(1, 3, 224, 224), rounds=1)
    results = found.results
    assert [result.name for result in results] == ['dense', '1', '8']
    assert (results[0].macs, results[0].params) == (300774272, 3504872)
    assert (results[1].macs, results[1].params) == (200469704, 3176537)
    assert results[1].macs < results[2].macs < results[0].macs
    assert all(result.parity < 1e-4 for result in results)
    assert [result.rounds for result in results] == [3, 3, 3]  # turns, at least
    assert found.fastest.speedup == max(result.speedup for result in results[1:])
    assert results[0].speedup == 1
    assert found.about['runtime'] == 'onnxruntime'
    for result in results:
        assert result.quartiles_ms[0] <= result.latency_ms <= result.quartiles_ms[1]
        assert result.images_per_second == pytest.approx(1e3 / result.latency_ms)


def test_search_in_another_runtime(mobilenet):
    cfg, checkpoint, _ = mobilenet
    found = search(cfg, checkpoint, [8], shape=(2, 3, 64, 64), runtime=Torch(), rounds=1)
    assert found.as_json()['runtime']['runtime'] == 'PyTorch'
    assert max(result.parity for result in found.results) == 0


@pytest.mark.parametrize(('speedup', 'line'), [
    (1.4, 'fastest: divisor 8, 5.00 ms: 1.40 times as fast as dense'),
    (0.9, 'fastest: divisor 8, 5.00 ms: 0.90 times as fast as dense, so it is not faster')])
def test_results_end_with_the_verdict(speedup, line):
    row = DivisorResult(8, 1_000_000, 2_000_000, 5.0, (4.5, 6.0), 200.0, speedup, 1e-6, 30)
    dense = DivisorResult(None, 2_000_000, 3_000_000, 7.0, (7.0, 7.0), 142.9, 1.0, 1e-6, 30)
    about = dict(runtime='fake', version='1.0', threads=2, device='nowhere', cpu='A CPU')
    lines = format_results(Search([dense, row], about, ('somebody works', ))).splitlines()
    assert lines[3] == f'| 8 | 1.0 | 2.00 | 5.00 | 4.50 to 6.00 | 200.0 | {speedup:.2f} |'
    assert lines[-3:] == ['fake 1.0, 2 threads, nowhere, median of 30 runs; A CPU', 'warning: somebody works', line]


def test_a_pruned_model_is_timed_beside_the_dense_one(mobilenet, tmp_path):
    cfg, _, unpadded = mobilenet
    clock = Clock()
    found = beside_dense(cfg, unpadded, torch.zeros(1, 3, 64, 64), SmallIsFast(clock), rounds=3, clock=clock)
    assert found.speedup == pytest.approx(3504872 / 3176537)
    assert str(found).splitlines()[-1] == 'pruned: 1.10 times as fast as dense'
    assert is_pruned(cfg)
    assert not is_pruned(small())


class SmallIsFast(FakeRuntime):
    """A run takes as many milliseconds as a model has parameters."""

    def prepare(self, model, x, path):
        return [sum(parameter.numel() for parameter in model.parameters())]


def test_not_faster_is_an_error_where_faster_is_required():
    assert verdict(1.0) == 'pruned: 1.00 times as fast as dense, so it is not faster'
    require_faster(1.01)
    for speedup in (1.0, 0.5, math.nan):
        with pytest.raises(NotFasterError, match=f'^--require-faster: pruned: {speedup:.2f} times as fast as dense'):
            require_faster(speedup)


def test_search_wants_a_deploy_config():
    cfg = read_config('mmcls::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')
    with pytest.raises(StructureError, match=r"'ImageClassifier'; a deploy config has mmprune.GroupFisherDeploy"):
        search(cfg)


# export, parity, latency


SMALL = """
default_scope = 'mmcls'
model = dict(
    type='ImageClassifier', backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'), head=dict(type='{head}', num_classes=10, in_channels=64{more}))
data_preprocessor = dict(num_classes=10, mean=[125.0] * 3, std=[50.0] * 3, to_rgb=True)
test_pipeline = [dict(type='ResizeEdge', scale=40), dict(type='CenterCrop', crop_size=32), dict(type='PackClsInputs')]
test_dataloader = dict(dataset=dict(type='CIFAR10', pipeline=test_pipeline))
"""


def small(head='LinearClsHead', more=''):
    return Config.fromstring(SMALL.format(head=head, more=more), '.py')


@pytest.mark.parametrize('exporter', EXPORTERS)
@pytest.mark.parametrize('dynamic', [False, True])
def test_scores_and_batch_size(exporter, dynamic, tmp_path):
    model = load_model(small(), 'none')
    wrapped = export_onnx(model, torch.randn(2, 3, 32, 32), tmp_path / 'x.onnx', dynamic, exporter)
    onnx_model = OnnxModel(tmp_path / 'x.onnx')
    assert [node.name for node in onnx_model.session.get_outputs()] == ['output']
    assert onnx_model.input_name == 'input'
    size = 5 if dynamic else 2
    x = torch.randn(size, 3, 32, 32)
    with torch.no_grad():
        wanted = model(x, mode='tensor').softmax(1)
    assert wanted.max() < 0.999  # not saturated: the comparison means something
    assert relative_difference([wanted], onnx_model(x)) < 1e-4
    assert check_parity(onnx_model, wrapped, x) < 1e-4


def test_random_weights_normalise_a_backbone_whose_norms_stay_in_eval_mode():
    """mmdet's backbones do (norm_eval): without statistics of the batch their activations would explode."""
    cfg = small()
    cfg.model.backbone.norm_eval = True
    frozen = load_model(cfg, 'none')
    usual = load_model(small(), 'none')
    frozen.backbone.train()
    assert not frozen.backbone.norm1.training
    assert frozen.backbone.norm1.running_mean.abs().max() > 0
    wanted, found = usual.backbone.state_dict(), frozen.backbone.state_dict()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)


def test_model_that_asks_for_data_samples():
    class Pose(BaseModel):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, inputs, data_samples, mode='tensor'):
            assert data_samples is None
            assert mode == 'tensor'
            return self.conv(inputs)

    model, x = Pose().eval(), torch.randn(1, 3, 5, 5)
    assert torch.equal(DeployOutput(model)(x), model.conv(x))


def test_multi_label_head_gives_sigmoids():
    model = load_model(small('MultiLabelLinearClsHead'), 'none')
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(DeployOutput(model)(x), model(x, mode='tensor').sigmoid())


def test_plain_module_keeps_its_outputs(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            return {'a': y, 'b': [y.mean((2, 3))]}

    x = torch.randn(1, 3, 5, 5)
    wrapped = export_onnx(Two().eval(), x, tmp_path / 'x.onnx')
    assert [tuple(tensor.shape) for tensor in OnnxModel(tmp_path / 'x.onnx')(x)] == [(1, 4, 5, 5), (1, 4)]
    assert check_parity(OnnxModel(tmp_path / 'x.onnx'), wrapped, x) < 1e-5


def test_parity_error(tmp_path):
    net = nn.Conv2d(3, 4, 1).eval()
    x = torch.randn(1, 3, 5, 5)
    wrapped = export_onnx(net, x, tmp_path / 'x.onnx')
    with torch.no_grad():
        net.weight[0, 0] += 1e-3
    with pytest.raises(ParityError, match=r'differ by .* more than 0.0001.*must not be deployed'):
        check_parity(OnnxModel(tmp_path / 'x.onnx'), wrapped, x)
    with pytest.raises(ParityError, match=r'differ by inf.*\(1, 3, 5, 5\)'):
        check_parity(OnnxModel(tmp_path / 'x.onnx'), nn.Conv2d(3, 3, 1).eval(), x)


@pytest.mark.parametrize('exporter', EXPORTERS)
@pytest.mark.parametrize(('head', 'function'), [('LinearClsHead', 'softmax'), ('MultiLabelLinearClsHead', 'sigmoid')])
def test_classifiers_are_compared_by_their_logits(head, function, exporter, tmp_path):
    """The classes are so sure that scores hardly change when the head is 1 % off; what is sound is accepted."""
    model = load_model(small(head), 'none')
    images = torch.randn(20, 3, 32, 32)
    with torch.no_grad():
        model.head.fc.weight *= 100 / model(images, mode='tensor').abs().max()
    wrapped = export_onnx(model, images[:1], tmp_path / 'x.onnx', exporter=exporter)
    onnx_model, other = OnnxModel(tmp_path / 'x.onnx'), copy.deepcopy(wrapped)
    with torch.no_grad():
        other.model.head.fc.weight *= 1.01
    hidden = 0
    for x in images.split(1):
        assert check_parity(onnx_model, wrapped, x) < 1e-4
        hidden += relative_difference(output_of(other, x), onnx_model(x)) < 1e-4
        with pytest.raises(ParityError, match=f'relative to the largest logit before the {function}'):
            check_parity(onnx_model, other, x)
    if function == 'softmax':
        assert hidden > 5


class Amplifies(nn.Module):
    """Rounding of a sum grows to ``strength`` times what it was."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def forward(self, x):
        return (x + 1 / 3 - x) * self.strength + 1 - self.strength / 3


@pytest.mark.parametrize(('error', 'fits'), [(2e-4, True), (8e-4, False)])
def test_parity_allows_what_rounding_alone_changes(error, fits):
    """PyTorch's float32 is 2.4e-4 off its float64 here; a file may be further off than 1e-4, not than both together."""
    net, x = Amplifies(5e3).eval(), torch.ones(1, 3, 4, 4)
    with torch.no_grad():
        off = float((net(x) - net(x.double())).abs().max() / net(x.double()).abs().max())
        found = [net(x) * (1 + error)]
    assert 2e-4 < off < 3e-4
    if fits:
        assert check_parity(lambda x: found, net, x) == pytest.approx(error, rel=0.1)
    else:
        with pytest.raises(ParityError, match='differ by 0.0008'):
            check_parity(lambda x: found, net, x)


class Average(nn.Module):
    """Computes with the batch size in Python, which the exporter takes for a constant."""

    def __init__(self, by_shape):
        super().__init__()
        self.conv, self.by_shape = nn.Conv2d(3, 4, 1), by_shape

    def forward(self, x):
        size = int(x.shape[0])
        return self.conv(x).view(size, -1) if self.by_shape else self.conv(x) / size


@pytest.mark.parametrize('by_shape', [False, True])
def test_a_file_that_takes_any_batch_is_tried_on_another(by_shape, tmp_path):
    net, x = Average(by_shape).eval(), torch.randn(1, 3, 5, 5)
    wrapped = export_onnx(net, x, tmp_path / 'fixed.onnx')
    assert compare(tmp_path / 'fixed.onnx', wrapped, x, rounds=1)[0] < 1e-5
    wrapped = export_onnx(net, x, tmp_path / 'any.onnx', dynamic=True)
    with pytest.raises(ParityError, match='wrong for 2 images where its example had 1: export it with a fixed one'):
        compare(tmp_path / 'any.onnx', wrapped, x, rounds=1)


def without_warnings(done):
    """Return the lines that a tool printed, without those about other work on this machine."""
    return [line for line in done.stdout.splitlines() if not line.startswith('warning: ')]


def deploy(folder, kind, *more):
    """Run tools/deploy.py on a small classifier."""
    cfg = folder / 'model.py'
    cfg.write_text(SMALL.format(head='LinearClsHead', more=''))
    torch.save(dict(state_dict=load_model(small(), 'none').state_dict()), folder / 'model.pth')
    return subprocess.run([sys.executable, 'tools/deploy.py', f'configs/deploy/{kind}.py', cfg, folder / 'model.pth',
                           sample_image(), '--work-dir', folder / 'out', '--rounds', '2', *more],
                          cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))


@pytest.mark.skipif('dynamo' not in EXPORTERS, reason='this torch has no new exporter')
def test_tool_deploys_by_the_new_exporter(tmp_path):
    done = deploy(tmp_path, 'classification_onnxruntime_dynamic', '--exporter', 'dynamo')
    assert done.returncode == 0, done.stdout + done.stderr
    lines = without_warnings(done)[-3:]
    assert float(lines[0].split('largest relative difference')[1]) < 1e-4
    assert [line.split()[0] for line in lines[1:]] == ['PyTorch', 'onnxruntime']
    onnx_model, model = OnnxModel(tmp_path / 'out/end2end.onnx'), load_model(small(), str(tmp_path / 'model.pth'))
    assert onnx_model.any_batch
    for shape in ((1, 3, 32, 32), (3, 3, 40, 48)):  # any batch, any image
        x = torch.randn(shape)
        with torch.no_grad():
            assert relative_difference([model(x, mode='tensor').softmax(1)], onnx_model(x)) < 1e-4


@pytest.mark.parametrize(('kind', 'message'), [
    ('classification_onnxruntime_static', 'is for images of 224 x 224, the test pipeline of'),
    ('detection_onnxruntime_dynamic', '--exporter dynamo exports classifiers; ObjectDetection needs')])
def test_tool_says_what_the_new_exporter_cannot_do(kind, message, tmp_path):
    done = deploy(tmp_path, kind, '--exporter', 'dynamo')
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / 'out').exists()


def test_exporter_must_exist(tmp_path):
    with pytest.raises(ValueError, match="exporter is 'jit'"):
        export_onnx(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 5, 5), tmp_path / 'x.onnx', exporter='jit')
    if not HAS_DYNAMO:
        with pytest.raises(ValueError, match=r'needs torch 2\.5 or newer'):
            export_onnx(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 5, 5), tmp_path / 'x.onnx', exporter='dynamo')


@pytest.mark.parametrize('threads', [0, 1.5, True])
def test_threads_must_be_positive(threads, tmp_path):
    with pytest.raises(ValueError, match='threads is'):
        OnnxModel(tmp_path / 'x.onnx', threads)


def test_compare_restores_the_thread_count(tmp_path):
    net, x = nn.Conv2d(3, 4, 1).eval(), torch.randn(1, 3, 5, 5)
    wrapped = export_onnx(net, x, tmp_path / 'x.onnx')
    before = torch.get_num_threads()
    difference, timing = compare(tmp_path / 'x.onnx', wrapped, x, threads=2, rounds=2)
    assert difference < 1e-5
    assert set(timing.latency) == {'PyTorch', 'onnxruntime'}
    assert torch.get_num_threads() == before


# images


def test_image_goes_through_the_test_pipeline():
    cfg = read_config(str(ROOT / MOBILENET))
    cfg.model.demo_input.input_shape = (1, 3, 64, 64)
    x = image_input(cfg, load_model(cfg, 'none'))
    assert x.shape == (1, 3, 224, 224)
    assert abs(float(x.mean())) < 2
    assert 0.5 < float(x.std()) < 3


def test_dataset_of_arrays_gets_a_loader():
    cfg = small()
    cfg.test_dataloader.dataset.pipeline = [dict(type='PackClsInputs')]
    cfg.model.demo_input = dict(input_shape=(1, 3, 24, 32))
    preprocessor_only = nn.Module()
    preprocessor_only.data_preprocessor = load_model(small(), 'none').data_preprocessor
    assert image_input(cfg, preprocessor_only, sample_image()).shape == (1, 3, 24, 32)


def test_missing_image():
    with pytest.raises(FileNotFoundError, match=r"there is no image 'nowhere\.jpg'"):
        image_input(small(), nn.Module(), 'nowhere.jpg')


def test_prune_config_cannot_be_deployed():
    cfg = read_config(str(ROOT / MOBILENET.replace('_deploy', '_prune')))
    with pytest.raises(StructureError, match='this is a prune config; export the finetuned model'):
        load_model(cfg, 'none')


# tools


def tool(*args, **kwargs):
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, text=True, capture_output=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'), timeout=300, **kwargs)


def test_export_tool(tmp_path):
    (tmp_path / 'cfg.py').write_text(SMALL.format(head='LinearClsHead', more=''))
    done = tool('tools/export_onnx.py', tmp_path / 'cfg.py', 'none', '--out', tmp_path / 'x.onnx', '--dynamic',
                '--rounds', 2)
    assert done.returncode == 0, done.stderr
    lines = without_warnings(done)
    assert 'x.onnx: parity with PyTorch, largest relative difference' in lines[0]
    assert float(lines[0].split()[-1]) < 1e-4
    assert [line.split()[0] for line in lines[1:]] == ['PyTorch', 'onnxruntime']
    assert OnnxModel(tmp_path / 'x.onnx')(torch.randn(3, 3, 32, 32))[0].shape == (3, 10)
    done = tool('tools/export_onnx.py', tmp_path / 'cfg.py', 'none', '--out', tmp_path / 'x.onnx', '--require-faster')
    assert done.returncode == 2
    assert done.stderr == (f"error: --require-faster: {tmp_path / 'cfg.py'} is the config of a dense model; give the "
                           'deploy config of a pruned one\n')


def test_export_tool_times_the_pruned_model_beside_the_dense_one(tmp_path, capsys, monkeypatch):
    arguments = ['export', str(ROOT / MOBILENET), 'none', '--out', str(tmp_path / 'x.onnx'), '--rounds', '1']
    for speedup in (1.2, 0.8):
        monkeypatch.setattr(BesideDense, 'speedup', speedup)
        main(arguments)
        lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith('warning: ')]
        assert [line.split()[0] for line in lines[1:-1]] == ['PyTorch', 'onnxruntime', 'dense', 'pruned']
        assert lines[-1] == verdict(speedup)
    with pytest.raises(SystemExit) as ended:
        main([*arguments, '--require-faster'])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith('error: --require-faster: pruned: 0.80 times as fast as dense, so it is')


def test_find_divisor_tool(mobilenet):
    _, checkpoint, _ = mobilenet
    done = tool('tools/find_divisor.py', MOBILENET, checkpoint, '--divisors', 1, 16, '--input-shape', 1, 3, 64, 64,
                '--rounds', 1, '--json', '-')
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row['divisor'] for row in found['results']] == [None, 1, 16]
    assert found['fastest'] in (1, 16)
    assert (found['threads'], found['runtime']['runtime']) == (1, 'onnxruntime')
    done = tool('tools/find_divisor.py', MOBILENET, 'none', '--divisors', 0)
    assert done.returncode == 2
    assert "'0' is no whole number from 1 to 1,024" in done.stderr


def test_deploy_tool_without_mmdeploy():
    code = "import runpy, sys; sys.modules['mmdeploy'] = None; runpy.run_path('tools/deploy.py', run_name='__main__')"
    done = tool('-c', code, 'deploy.py', 'model.py', 'x.pth', 'x.jpg', '--work-dir', 'out')
    assert done.returncode == 1
    assert 'error: tools/deploy.py needs mmdeploy' in done.stderr
    assert 'tools/export_onnx.py exports without it' in done.stderr


def test_core_does_not_import_mmdeploy():
    code = ('import sys; from mmprune.models.from_config import read_config; '
            'from mmprune.deploy.load import load_model; '
            f"load_model(read_config({MOBILENET!r}), 'none'); print('mmdeploy' in sys.modules)")
    done = tool('-c', code)
    assert done.stdout.split()[-1] == 'False', done.stderr
