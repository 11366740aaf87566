"""Every runtime computes what PyTorch does, frees what it opened, and says what is wrong in a line."""
import importlib.util
import sys

import pytest
import torch
from fake_runtimes import Clock, FakeRuntime
from torch import nn

from mmprune.arguments import MissingPackageError, UserError
from mmprune.deploy.onnx_runtime import OnnxError, OnnxModel
from mmprune.deploy.runtimes.onnx_runtime import OnnxRuntime, node_times
from mmprune.deploy.runtimes.open_vino import OpenVINO
from mmprune.deploy.runtimes.pytorch import Torch
from mmprune.deploy.runtimes.runtime import in_words
from mmprune.registry import RUNTIMES, build
from mmprune.units.equivalence import relative_difference

pytest.importorskip('onnxruntime')
NAMES = [name for name, package in (('OnnxRuntime', 'onnxruntime'), ('OpenVINO', 'openvino'), ('Torch', 'torch'))
         if importlib.util.find_spec(package)]
X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def small_net():
    return nn.Sequential(nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(),
                         nn.Conv2d(20, 20, 3, padding=1, groups=20), nn.SiLU(), nn.Conv2d(20, 7, 1)).eval()


@pytest.mark.parametrize('name', NAMES)
def test_a_runtime_computes_what_pytorch_does(name, tmp_path):
    net = small_net()
    runtime = build(RUNTIMES, dict(type=name))
    source = runtime.prepare(net, X, tmp_path / 'x.onnx')
    with torch.no_grad():
        wanted = net(X)
    with runtime.opened(source, X) as run:
        first, second = run(), run()
    assert relative_difference([wanted], first) < 1e-5
    assert torch.equal(first[0], second[0])
    assert first[0].data_ptr() != second[0].data_ptr()


@pytest.mark.parametrize('name', NAMES)
def test_a_description_says_where_a_number_comes_from(name):
    about = build(RUNTIMES, dict(type=name, threads=2)).describe()
    assert [*about] == ['runtime', 'version', 'threads', 'device', 'cpu']
    assert about['threads'] == 2
    assert all(about.values())
    assert in_words(about) == f'{about["runtime"]} {about["version"]}, 2 threads, {about["device"]}'


def test_the_profile_of_onnxruntime_names_every_node(tmp_path):
    runtime = OnnxRuntime()
    nodes = runtime.profiled(runtime.prepare(small_net(), X, tmp_path / 'x.onnx'), X, runs=3)
    convs = [node for node in nodes if node.op == 'Conv']
    assert len(convs) == 3
    assert all(node.milliseconds > 0 and node.kernel == 'CPUExecutionProvider' for node in nodes if node.op == 'Conv')
    assert all(not node.name.endswith('_kernel_time') for node in nodes)
    assert convs[0].inputs[0] == (2, 3, 12, 12)
    assert convs[0].outputs[0][2:] == (12, 12)
    assert [path.name for path in tmp_path.iterdir()] == ['x.onnx']


@pytest.mark.skipif('OpenVINO' not in NAMES, reason='openvino is not installed')
def test_the_profile_of_openvino_names_what_ran(tmp_path):
    runtime = OpenVINO()
    nodes = runtime.profiled(runtime.prepare(small_net(), X, tmp_path / 'x.onnx'), X, runs=3)
    convs = [node for node in nodes if node.op in ('Convolution', 'GroupConvolution')]
    assert [node.outputs for node in convs] == [((2, 20, 12, 12), )] * 2 + [((2, 7, 12, 12), )]
    assert convs[0].inputs[0] == (2, 3, 12, 12)
    assert all(node.kernel and node.milliseconds >= 0 for node in nodes)


def test_node_times_are_medians_of_the_runs_that_count():
    def event(name, duration, index, category='Node'):
        return dict(cat=category, name=name, dur=duration, args=dict(
            node_index=index, op_name='Conv', provider='P', input_type_shape=[{'float': [1, 2]}, {'float': [3]}],
            output_type_shape=[{'float': [1, 4]}]))

    events = [event('model_run', 999, '', 'Session'), event('a_fence_before', 999, '0')]
    for durations in ((500, 600), (10, 20), (11, 28), (90, 21)):  # the first run warms up
        events += [event('a_kernel_time', durations[0], '0'), event('a_kernel_time', durations[1], '1')]
    first, second = node_times(events, 3)  # two nodes of one name
    assert (first.name, first.op, first.milliseconds, first.kernel) == ('a', 'Conv', 0.011, 'P')
    assert (first.inputs, first.outputs) == (((1, 2), (3, )), ((1, 4), ))
    assert second.milliseconds == 0.021


def test_torch_tells_its_modules_unless_they_are_compiled():
    net = small_net()
    nodes = Torch().profiled(net, X, runs=3)
    assert [node.op for node in nodes] == ['Conv2d', 'BatchNorm2d', 'ReLU', 'Conv2d', 'SiLU', 'Conv2d']
    assert nodes[0].inputs[0] == (2, 3, 12, 12)
    assert nodes[0].outputs == ((2, 20, 12, 12), )
    with pytest.raises(UserError, match='^a compiled model is one piece'):
        Torch(compiled=True).profiled(net, X)


def test_a_runtime_without_a_profile_says_so():
    with pytest.raises(UserError, match='^fake does not tell how long each layer takes; OnnxRuntime, OpenVINO and'):
        FakeRuntime(Clock()).profiled([1.0], X)


def test_torch_has_its_threads_inside_the_block_only():
    before = torch.get_num_threads()
    with Torch(threads=before + 1).opened(small_net(), X) as run:
        assert torch.get_num_threads() == before + 1
        assert not run()[0].requires_grad
    assert torch.get_num_threads() == before


def test_torch_compiles_what_it_opens(monkeypatch):
    monkeypatch.setattr(torch, 'compile', lambda function: lambda x: function(x) + 1)
    runtime, net = Torch(compiled=True), small_net()
    with runtime.opened(net, X) as run, torch.no_grad():
        assert torch.equal(run()[0], net(X) + 1)
    assert runtime.describe()['device'] == 'cpu, compiled'


def test_what_cannot_be_compiled_is_told(monkeypatch):
    def torch_compile(function):
        raise RuntimeError('Python 9\nis not supported')

    monkeypatch.setattr(torch, 'compile', torch_compile)
    before = torch.get_num_threads()
    with pytest.raises(UserError, match=r'^compiled is True, but torch .* cannot .*\(Python 9 is not supported\)'), \
            Torch(threads=before + 1, compiled=True).opened(small_net(), X):
        pass
    assert torch.get_num_threads() == before


@pytest.mark.skipif(torch.__version__ < '2.1', reason='torch 2.0 does not compile under Python 3.11')
@pytest.mark.filterwarnings('ignore')  # dynamo's own
def test_every_model_is_compiled_however_many_there_are(monkeypatch):
    """PyTorch compiles one function for eight models and runs the others eagerly."""
    seen, torch_compile = [], torch.compile

    def backend(graph, inputs):
        seen.append(len(inputs))
        return graph

    monkeypatch.setattr(torch, 'compile', lambda function: torch_compile(function, backend=backend))
    runtime, x = Torch(compiled=True), torch.zeros(1, 3, 4, 4)
    for width in range(1, 13):
        source = runtime.prepare(nn.Conv2d(3, width, 3).eval(), x, '')
        with runtime.opened(source, x) as run:
            run()
            run()
        assert len(seen) == width


def test_a_session_is_freed_at_the_end_of_its_block(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(OnnxModel, 'close', lambda self: kept.append(self) or setattr(self, 'session', None))
    runtime = OnnxRuntime()
    with runtime.opened(runtime.prepare(small_net(), X, tmp_path / 'x.onnx'), X):
        assert kept == []
    assert kept[0].session is None


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('threads', [0, -1, 1.5, True, 2000])
def test_threads_are_a_number_of_threads(name, threads):
    with pytest.raises(UserError, match='^threads is .*; it must be a whole number from 1 to 1,024$'):
        build(RUNTIMES, dict(type=name, threads=threads))


def test_a_provider_that_is_missing_names_those_that_are_there():
    with pytest.raises(UserError, match=r"^provider is 'CPU'.*; this onnxruntime has .*CPUExecutionProvider"):
        OnnxRuntime(provider='CPU')


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_missing_is_told():
    with pytest.raises(UserError, match=r"^device is 'cuda:0', but this PyTorch has no CUDA, or sees no GPU; cpu "):
        Torch(device='cuda:0')


@pytest.mark.parametrize('device', ['gpu', '', 'cuda:-1'])
def test_a_device_that_is_none(device):
    with pytest.raises(UserError, match='^device is .*, which torch does not know; it may be cpu or cuda:0$'):
        Torch(device=device)


@pytest.mark.parametrize('device', ['meta', 'xla'])
def test_a_device_that_runs_nothing_here(device):
    with pytest.raises(UserError, match=f"^device is '{device}', on which this PyTorch cannot run and time models "):
        Torch(device=device)


@pytest.mark.parametrize(('module', 'runtime'), [('onnxruntime', OnnxRuntime), ('openvino', OpenVINO)])
def test_a_package_that_is_missing_is_named(module, runtime, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=f'^{module} is not installed: pip install .*{module}$'):
        runtime()


@pytest.mark.parametrize('name', [name for name in NAMES if name != 'Torch'])
def test_files_and_inputs_that_are_wrong(name, tmp_path):
    runtime = build(RUNTIMES, dict(type=name))
    (tmp_path / 'text.onnx').write_text('no network')
    for path in (tmp_path / 'none.onnx', tmp_path / 'text.onnx'):
        with pytest.raises(UserError) as caught, runtime.opened(path, X):
            pass
        assert '\n' not in str(caught.value)
        assert path.name in str(caught.value)
    source = runtime.prepare(small_net(), X, tmp_path / 'x.onnx')
    with pytest.raises(UserError, match=r'on an input of shape \(2, 4, 12, 12\)'), \
            runtime.opened(source, torch.zeros(2, 4, 12, 12)) as run:
        run()


def test_the_errors_of_onnxruntime_are_users_errors():
    assert issubclass(OnnxError, UserError)
