"""INT8 files: what is quantised and what is not, both formats, and the search for layers that stay in float."""
import itertools
import math

import pytest
import torch
from torch import nn

from mmprune.arguments import UserError
from mmprune.deploy import machine
from mmprune.deploy.onnx_export import export_onnx
from mmprune.deploy.quantization import FORMATS, PERCENTILES, Quantizer, run
from mmprune.deploy.quantized_nodes import cut_to, named, network_of
from mmprune.deploy.sensitivity import Sensitivity, least_in_float, signal_to_noise

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


class Detecting(nn.Module):
    """Two layers, a shortcut, two predictors, and decoding: scores, distances as means of distributions, the best."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.scores, self.sides = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4 * 4, 1)
        self.register_buffer('steps', torch.arange(4.0))

    def forward(self, x):
        """Return the scores and the boxes in pixels of the best places."""
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.body(x))
        scores = self.scores(x).sigmoid().flatten(2).amax(1)
        sides = self.sides(x).view(len(x), 4, 4, -1).permute(0, 3, 1, 2).softmax(3) @ self.steps
        best, places = scores.topk(5, dim=1)
        return best, sides.gather(1, places[..., None].expand(-1, -1, 4)) * 640


class Attending(nn.Module):
    """A layer, an attention of its outputs, a gate, and a layer."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        """Return what the last layer makes of every place."""
        x = self.first(x)
        x = (x * self.gate(x).sigmoid()).flatten(2)
        weights = torch.relu(x.transpose(1, 2) @ x / 3)
        return self.last((x @ (weights * weights)).transpose(1, 2))


def seeded(net):
    """Return a net in eval mode with random weights and norm statistics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point() and tensor.dim() > 0 and len(tensor) != 4:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.3)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.abs_().add_(0.5)
    return net.eval()


def images(count=6, size=8):
    return list(torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1)).split(1))


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """The file of the net, and its quantiser."""
    path = tmp_path_factory.mktemp('int8') / 'x.onnx'
    export_onnx(seeded(Detecting()), images()[0], path, True)
    return path, Quantizer(path, images())


def operators(path):
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def test_the_network_ends_before_what_decodes(exported):
    path, quantizer = exported
    network = quantizer.network
    assert len(network.layers) == 4  # the norm is part of the stem, the projection to the mean is none
    nodes = {node.name: node for node in quantizer.model.graph.node}
    behind = {nodes[name].op_type for name in {*nodes} - {*network.nodes}}
    assert {'Sigmoid', 'Softmax', 'MatMul', 'TopK', 'Mul'} <= behind
    assert not {'Conv', 'Relu', 'Add'} & behind
    assert len(network.outputs) == 2  # of both predictors
    assert {makers.op_type for makers in nodes.values() if {*makers.output} & {*network.outputs}} == {'Conv'}


class TwoStages(nn.Module):
    """Places are chosen by their scores, and a layer looks at what lies there."""

    def __init__(self):
        super().__init__()
        self.scores, self.second = nn.Conv2d(3, 2, 1), nn.Linear(2, 5)

    def forward(self, x):
        """Return what the second stage makes of the best places."""
        scores = self.scores(x).flatten(2)
        places = scores.amax(1).topk(4, dim=1).indices
        return self.second(scores.gather(2, places[:, None].expand(-1, 2, -1)).transpose(1, 2))


def test_regions_that_may_change_places_are_not_compared(tmp_path):
    export_onnx(seeded(TwoStages()), images()[0], tmp_path / 'x.onnx')
    network = Quantizer(tmp_path / 'x.onnx', images()).network
    assert len(network.layers) == 2
    assert len(network.outputs) == 2
    makers = {name: node.name for node in Quantizer(tmp_path / 'x.onnx', images()).model.graph.node
              for name in node.output}
    assert [makers[network.outputs[place]] for place in network.compared] == [network.layers[0]]


def test_the_network_alone_gives_what_decoding_reads(exported, tmp_path):
    path, quantizer = exported
    net = seeded(Detecting())
    found = run(quantizer.write_float(tmp_path / 'network.onnx'), images())
    with torch.no_grad():
        x = torch.relu(net.norm(net.stem(images()[0])))
        x = x + torch.relu(net.body(x))
        wanted = net.scores(x), net.sides(x)
    assert all(any(torch.allclose(one, other, atol=1e-4) for other in found[0] if other.shape == one.shape)
               for one in wanted)
    assert len(operators(tmp_path / 'network.onnx')) == len(quantizer.network.nodes)


@pytest.mark.parametrize('form', FORMATS)
def test_an_attention_stays_in_float(form, tmp_path):
    export_onnx(seeded(Attending()), images()[0], tmp_path / 'x.onnx')
    quantizer = Quantizer(tmp_path / 'x.onnx', images())
    nodes = {node.name: node.op_type for node in quantizer.model.graph.node}
    assert len(quantizer.network.layers) == 3
    found = sorted(nodes[name] for name in quantizer.network.quantized)
    assert found.count('Mul') == found.count('Sigmoid') == 1  # the gate
    assert 'Div' not in found
    assert found.count('MatMul') + found.count('Gemm') == 1  # the last layer, which newer versions bring to a Gemm
    path = quantizer.write(tmp_path / 'int8.onnx', form)
    graph = onnx.load(str(path)).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    computed = [node for node in graph.node if node.op_type == 'MatMul' and node.input[1] not in constants
                and makers[node.input[1]] != 'DequantizeLinear']
    assert len(computed) >= 1
    squares = [node for node in graph.node if node.op_type == 'Mul' and node.input[0] == node.input[1]]
    assert [makers[node.input[0]] for node in squares] == ['Relu']
    assert signal_to_noise(run(tmp_path / 'x.onnx', images()), run(path, images())) > 20


@pytest.mark.parametrize('form', FORMATS)
def test_both_formats_are_near_and_decode_in_float(form, exported, tmp_path):
    path, quantizer = exported
    wanted, found = (run(file, images()) for file in (path, quantizer.write(tmp_path / 'int8.onnx', form)))
    for place in (0, 1):  # scores up to 1, and boxes of hundreds of pixels
        assert signal_to_noise([[batch[place]] for batch in wanted], [[batch[place]] for batch in found]) > 20
    graph = onnx.load(str(tmp_path / 'int8.onnx')).graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ('TopK', 'GatherElements', 'Softmax', 'Mul'):
            assert makers.get(node.input[0], node).op_type not in ('DequantizeLinear', 'QLinearSigmoid', 'QLinearMul') \
                or node.op_type == 'Softmax'
    if form == 'QOperator':
        assert operators(tmp_path / 'int8.onnx').count('QLinearConv') == 4
        assert 'Conv' not in operators(tmp_path / 'int8.onnx')


def test_scales_belong_to_channels(exported, tmp_path):
    _, quantizer = exported
    quantizer.write(tmp_path / 'int8.onnx', 'QOperator')
    graph = onnx.load(str(tmp_path / 'int8.onnx')).graph
    scales = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = sorted(scales[node.input[4]] for node in graph.node if node.op_type == 'QLinearConv')
    assert found == [(2, ), (8, ), (8, ), (16, )]


def test_layers_stay_in_float_or_are_quantised_alone(exported, tmp_path):
    _, quantizer = exported
    stem, body = quantizer.network.layers[:2]
    quantizer.write(tmp_path / 'left.onnx', 'QOperator', [stem])
    assert operators(tmp_path / 'left.onnx').count('QLinearConv') == 3
    quantizer.write_network(tmp_path / 'alone.onnx', only=body, form='QOperator')
    assert operators(tmp_path / 'alone.onnx').count('QLinearConv') == 1
    assert operators(tmp_path / 'alone.onnx').count('Conv') == 3
    quantizer.write(tmp_path / 'all.onnx', 'QDQ', quantizer.network.layers)
    assert not {'QuantizeLinear', 'DequantizeLinear'} & {*operators(tmp_path / 'all.onnx')}


def test_the_same_file_comes_out_again(exported, tmp_path):
    path, quantizer = exported
    first = quantizer.write(tmp_path / 'first.onnx').read_bytes()
    other = Quantizer(path, images())
    assert other.write(tmp_path / 'second.onnx').read_bytes() == first


@pytest.mark.parametrize(('flags', 'found'), [('fpu avx512_vnni', True), ('fpu avx_vnni', True), ('fpu avx2', False)])
def test_weights_have_seven_bits_without_integer_dot_products(flags, found, exported, tmp_path, monkeypatch):
    info = tmp_path / 'cpuinfo'
    info.write_text(f'model name\t: X\nflags\t\t: {flags}\n')
    monkeypatch.setattr(machine, 'CPU_INFO', info)
    monkeypatch.setattr(machine.platform, 'machine', lambda: 'x86_64')
    assert machine.has_integer_dot_products() is found
    _, quantizer = exported
    graph = onnx.load(str(quantizer.write(tmp_path / 'int8.onnx'))).graph
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
               if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4]
    assert len(weights) == 4
    assert max(abs(weight.astype(int)).max() for weight in weights) == (127 if found else 64)


def test_other_machines_have_integer_dot_products(monkeypatch):
    monkeypatch.setattr(machine.platform, 'machine', lambda: 'aarch64')
    assert machine.has_integer_dot_products()


def test_what_cannot_be_quantised(tmp_path):
    x = images()[0]
    export_onnx(nn.ReLU(), x, tmp_path / 'relu.onnx')
    with pytest.raises(UserError, match=r"relu\.onnx' has no convolution or linear layer that could be quantised"):
        Quantizer(tmp_path / 'relu.onnx', images())
    export_onnx(nn.Conv2d(3, 4, 1), x, tmp_path / 'conv.onnx')
    with pytest.raises(UserError, match='there are no images from which the ranges of INT8 could come'):
        Quantizer(tmp_path / 'conv.onnx', [])
    model = onnx.load(str(tmp_path / 'conv.onnx'))
    model.opset_import[0].version = 11
    onnx.save(model, str(tmp_path / 'old.onnx'))
    with pytest.raises(UserError, match=r'is of opset 11; .* set onnx_config\.opset_version=13 in the deploy config'):
        Quantizer(tmp_path / 'old.onnx', images())


def test_nodes_get_names_and_constants_stay(tmp_path):
    export_onnx(seeded(Detecting()), images()[0], tmp_path / 'x.onnx')
    model = onnx.load(str(tmp_path / 'x.onnx'))
    for node in model.graph.node:
        node.name = ''
    assert len({node.name for node in named(model).graph.node}) == len(model.graph.node)
    part = cut_to(model, network_of(model).outputs[:1])
    assert len(part.graph.node) < len(model.graph.node)
    onnx.save(part, str(tmp_path / 'part.onnx'))
    assert run(tmp_path / 'part.onnx', images(1))[0][0].shape[:2] == (1, 2)
    read = {name for node in part.graph.node for name in node.input}
    assert {tensor.name for tensor in part.graph.initializer} <= read


def test_sensitivity_of_each_layer(exported):
    _, quantizer = exported
    sensitivity = Sensitivity(quantizer, images(2))
    found = sensitivity.choose_percentile()
    assert [*found] == [*PERCENTILES]
    assert quantizer.percentile == max(found, key=found.get)
    ranked = sensitivity.ranked()
    assert sorted(name for name, _ in ranked) == sorted(quantizer.network.layers)
    assert [value for _, value in ranked] == sorted(value for _, value in ranked)
    assert ranked[0][1] > sensitivity.decibels() > 15  # one layer alone adds less noise than all of them
    assert sensitivity.decibels(quantizer.network.layers) > 100  # nothing is quantised


def test_signal_to_noise():
    wanted = [[torch.tensor([3.0, 4.0]), torch.tensor([100.0])], [torch.tensor([0.0]), torch.tensor([0.0])]]
    found = [[torch.tensor([3.0, 4.5]), torch.tensor([90.0])], [torch.tensor([0.0]), torch.tensor([0.0])]]
    share = (0.25 / 25 + 100 / 10_000) / 2  # the mean over the outputs, each in its own unit
    assert signal_to_noise(wanted, found) == pytest.approx(-10 * math.log10(share))
    assert signal_to_noise(wanted, wanted) == math.inf


@pytest.mark.parametrize('count', [1, 2, 3, 5, 8])
def test_fewest_layers_stay_in_float(count):
    """Against every number of layers, for losses that fall with it."""
    layers = [str(number) for number in range(count)]
    for needed, allowed in itertools.product(range(count + 2), (0.5, 1.0)):
        calls = []

        def drop_of(left, needed=needed, calls=calls):
            assert [*left] == layers[:len(left)]
            calls.append(len(left))
            return 0.25 if len(left) >= needed else 2.0 + needed - len(left)

        found = least_in_float(lambda: layers, drop_of, allowed)
        assert len(found.left_in_float) == min(needed, count)
        assert found.drop == drop_of(found.left_in_float)
        assert len(calls) - 1 == len(found.tried) <= 2 + 2 * math.ceil(math.log2(count + 1))


def test_layers_are_ranked_only_if_some_must_stay():
    assert least_in_float(lambda: pytest.fail('ranked'), lambda left: 1.0, 1.0).left_in_float == ()


@pytest.mark.full
@pytest.mark.filterwarnings('ignore')
def test_openvino_reads_it(exported, tmp_path):
    pytest.importorskip('openvino')
    from mmprune.deploy.runtimes.open_vino import OpenVINO
    _, quantizer = exported
    path = quantizer.write_network(tmp_path / 'int8.onnx')
    wanted = run(path, images())
    for x, outputs in zip(images(), wanted):
        with OpenVINO().opened(path, x) as once:
            assert signal_to_noise([outputs], [once()]) > 20
