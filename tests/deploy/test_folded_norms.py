"""Norms of a cut stream whose means weights take over: what is computed stays, and what cannot be folded too."""
import copy
import importlib
import math
import threading

import pytest
import torch
from tiny_transformer import TinyViT, images
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune import Pruner
from mmprune.deploy.folding.modules import AddedSum, Layout, RootMeanSquareNorm
from mmprune.deploy.folding.norms import counts_removed, fold_norms
from mmprune.deploy.folding.stream import Changes
from mmprune.deploy.onnx_export import HAS_DYNAMO, export_onnx
from mmprune.units.attention.norm import StreamNorm


class Scale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(dim))

    def forward(self, x):
        return x * self.gamma


class Mixer(nn.Module):
    """A stream of tokens through MLPs, of which parts are written in several ways."""

    def __init__(self, dim=12, pooled=False, scaled=False, begins=False, merged='', after=False, direct=False,
                 greatest=False):
        super().__init__()
        self.patches, self.pooled, self.merged, self.after = nn.Conv2d(3, dim, 2, 2), pooled, merged, after
        self.greatest = greatest
        self.first = nn.LayerNorm(dim) if begins else nn.Identity()
        self.norm1, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, 20, bias=False), nn.Linear(20, dim)
        self.scale = Scale(dim) if scaled else nn.Identity()
        self.skip = nn.Linear(dim, 5) if direct else None
        wide = 4 * dim if merged else dim
        self.norm, self.head = nn.LayerNorm(wide), nn.Linear(wide, 5)

    def forward(self, x):
        x = self.first(self.patches(x).flatten(2).transpose(1, 2))
        if self.after:
            x = x + self.norm1(self.fc2(F.gelu(self.fc1(x))))
        else:
            x = x + self.scale(self.fc2(F.gelu(self.fc1(self.norm1(x)))))
        if self.merged:
            x = x.reshape(len(x), 4, 4, -1)
            x = (x if self.merged == 'blocks' else x.transpose(2, 3)).flatten(2)
        x, stream = self.norm(x), x
        out = self.head(x.amax(1) if self.greatest else x.mean(1) if self.pooled else x[:, 0])
        return out if self.skip is None else out + self.skip(stream).mean(1)


def pruned(model, seed=0, ratio=0.4):
    """Return a model with norms and biases at random, cut in float32."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5 if name.endswith('weight') else 0.0)
    pruner = Pruner(model.eval(), images(dtype=torch.float32), 'Random', ratio=ratio)
    pruner.cut()
    return model


def difference(model, folded):
    """Return the largest difference in float64 over the largest output."""
    x = images(3)
    with torch.no_grad():
        wanted, found = (copy.deepcopy(one).double()(x) for one in (model, folded))
    return float((found - wanted).abs().max() / wanted.abs().max())


def count(model):
    """Return how many norms are root mean squares, and how many count removed channels one by one."""
    return (sum(isinstance(module, RootMeanSquareNorm) for module in model.modules()),
            sum(counts_removed(module) for module in model.modules()))


def test_what_is_folded_is_the_norm_by_its_definition():
    torch.manual_seed(0)
    x, kept, dense, eps = torch.randn(7, 5, dtype=torch.float64) + 3, 5, 9, 0.1
    padded = F.layer_norm(torch.cat([x, x.new_zeros(7, 4)], 1), (dense, ), eps=eps)[:, :kept]
    into = (math.sqrt(1 - kept / dense) - 1) / kept
    mix = torch.eye(kept, dtype=torch.float64) + into
    torch.testing.assert_close(mix @ mix, torch.eye(kept, dtype=torch.float64) - 1 / dense)
    norm = RootMeanSquareNorm(torch.full((kept, ), (dense / kept) ** 0.5, dtype=torch.float64), eps * dense / kept)
    torch.testing.assert_close(norm(x @ mix) @ mix, padded)


@pytest.mark.parametrize('seed', range(3))
def test_a_transformer_is_folded_whole(seed):
    model = pruned(TinyViT(dim=16, heads=4, depth=3), seed)
    folded = fold_norms(model, images(1, torch.float32))
    assert count(model) == (0, 7)
    assert count(folded) == (7, 0)
    assert difference(model, folded) < 1e-6
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.float32}


@pytest.mark.parametrize(('options', 'folded', 'left'), [
    ({}, 2, 0),
    (dict(scaled=True), 2, 0),  # the layer that writes takes the scale
    (dict(direct=True), 2, 0),
    (dict(pooled=True), 1, 1),  # a mean of tokens is not what a norm returns
    (dict(begins=True), 2, 1),  # what it returns is the stream
    (dict(merged='blocks'), 1, 1), (dict(merged='turns'), 1, 1)])  # four tokens side by side
def test_norms_that_something_else_reads_get_the_stream_as_it_was(options, folded, left):
    model = pruned(Mixer(**options))
    found = fold_norms(model, images(1, torch.float32))
    assert count(model) == (0, folded + left)
    assert count(found) == (folded, left)
    assert difference(model, found) < 1e-6


def test_a_scale_is_one_afterwards():
    found = fold_norms(pruned(Mixer(scaled=True)), images(1, torch.float32))
    assert bool((found.scale.gamma == 1).all())


def test_norms_that_write_the_stream_stay():
    model = pruned(Mixer(after=True))
    assert fold_norms(model, images(1, torch.float32)) is model


def test_a_layer_without_a_bias_gets_one():
    found = fold_norms(pruned(Mixer()), images(1, torch.float32))
    assert found.fc1.bias is not None


class Padded(nn.Module):
    """A norm in front of a convolution that pads: zeros, where a norm of zeros would be its bias."""

    def __init__(self, padding):
        super().__init__()
        self.stem, self.norm, self.conv = nn.Conv2d(3, 8, 1), nn.LayerNorm(8), nn.Conv2d(8, 4, 3, padding=padding)
        self.norm2, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        out = self.conv(self.norm(x).permute(0, 3, 1, 2)).mean((2, 3))
        return torch.cat([out, self.head(self.norm2(x)).mean((1, 2))], 1)


@pytest.mark.parametrize(('padding', 'expected'), [(0, (2, 0)), (1, (1, 1))])
def test_a_convolution_that_pads_does_not_take_a_bias(padding, expected):
    model = pruned(Padded(padding))
    found = fold_norms(model, images(1, torch.float32))
    assert count(found) == expected
    assert difference(model, found) < 1e-6


def test_nothing_is_folded_without_exact_norms():
    dense = TinyViT().eval()
    assert fold_norms(dense, images(1, torch.float32)) is dense
    half = pruned(TinyViT()).double()
    assert fold_norms(half, images(1)) is half
    kept = pruned(TinyViT())
    for module in kept.modules():
        if isinstance(module, StreamNorm):
            module.counts_removed = False
    assert fold_norms(kept, images(1, torch.float32)) is kept


def test_a_fold_that_would_change_the_outputs_is_not_made(monkeypatch):
    right = Changes.add_sums
    monkeypatch.setattr(Changes, 'add_sums', lambda self, member, factor: right(self, member, 1.001 * factor))
    model = pruned(TinyViT())
    assert fold_norms(model, images(1, torch.float32)) is model


def test_images_that_are_alike_everywhere_tell_nothing():
    """Of zeros the greatest token is any token, and the head would seem to read what the norm returns."""
    model = pruned(Mixer(greatest=True))
    found = fold_norms(model, torch.zeros(1, 3, 8, 8))
    assert count(found) == (1, 1)
    assert difference(model, found) < 1e-6


class Wide(nn.Module):
    """A model that computes in float64 by a buffer, and has what cannot be copied."""

    def __init__(self):
        super().__init__()
        self.net, self.lock = TinyViT(), threading.Lock()
        self.register_buffer('mix', torch.eye(5, dtype=torch.float64))

    def forward(self, x):
        return (self.net(x).double() @ self.mix).to(x.dtype)


def test_what_is_no_float32_stays_what_it_is():
    model, x = pruned(Wide()), images(3, torch.float32)
    found = fold_norms(model, x)
    assert count(found) == (5, 0)
    assert found.mix.dtype == torch.float64
    torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-5)


def test_an_error_leaves_the_model_as_it_is(monkeypatch):
    model = pruned(TinyViT())
    monkeypatch.setattr(Changes, 'put', lambda self, name, new: next(iter(())))  # StopIteration
    assert fold_norms(model, images(1, torch.float32)) is model


def test_the_model_is_not_changed():
    model = pruned(Mixer(scaled=True, direct=True))
    before = copy.deepcopy(model.state_dict())
    fold_norms(model, images(1, torch.float32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert count(model) == (0, 2)


def test_layouts():
    assert Layout.of(torch.arange(6).view(2, 3).numpy()) == ((2, 3), 0)
    assert Layout.of(torch.arange(6).view(3, 2).T.numpy()) == ((3, 2), 1)
    assert Layout.of(torch.tensor([[1], [0]]).numpy()) is None


@pytest.mark.parametrize('channels', [0, 1])
def test_sums_are_over_the_channels(channels):
    x = torch.arange(12.0).view(1, 6, 2)
    parts = x.view(1, 2, 3, 2)
    wanted = parts + 0.5 * parts.sum(1 + channels, keepdim=True)
    torch.testing.assert_close(AddedSum(0.5, 1, Layout((2, 3), channels))(x), wanted.view(1, 6, 2))
    torch.testing.assert_close(AddedSum(0.5, 1, Layout((1, 6), 1))(x), x + 0.5 * x.sum(1, keepdim=True))


@pytest.mark.parametrize(('dynamic', 'pads'), [(False, 0), (True, 0), ([0, 2, 3], 7)])
def test_the_file_has_no_zeros_for_removed_channels(tmp_path, dynamic, pads):
    onnx = pytest.importorskip('onnx')
    runtime = pytest.importorskip('mmprune.deploy.onnx_runtime')
    model, x = pruned(TinyViT(dim=16, heads=4, depth=3)), images(2, torch.float32)
    wrapped = export_onnx(model, x, tmp_path / 'model.onnx', dynamic)
    assert sum(node.op_type == 'Pad' for node in onnx.load(str(tmp_path / 'model.onnx')).graph.node) == pads
    assert count(wrapped) == (0, 7)
    found = runtime.OnnxModel(tmp_path / 'model.onnx', 1)(x)[0]
    torch.testing.assert_close(found, wrapped(x), rtol=1e-4, atol=1e-5)


TORCHVISION = {
    'VisionTransformer': dict(image_size=16, patch_size=4, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64),
    'SwinTransformer': dict(patch_size=[2, 2], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4])}


@pytest.mark.full
@pytest.mark.parametrize(('name', 'folded', 'left'), [
    ('VisionTransformer', 5, 0),  # whose head is zero at first
    ('SwinTransformer', 8, 3)])  # those behind the patches, in front of the merge, and of which means are read
def test_transformers_of_torchvision(name, folded, left):
    torchvision = pytest.importorskip('torchvision')
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(**TORCHVISION[name], num_classes=7).eval()
    x = torch.randn(2, 3, 16, 16)
    Pruner(model, x, 'Random', ratio=0.3).cut()
    found = fold_norms(model, x)
    assert (count(model), count(found)) == ((0, folded + left), (folded, left))
    with torch.no_grad():
        torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-6)


def test_what_random_values_tell_apart_is_not_folded():
    """A branch of zeros, behind which a wrong fold would not be seen."""
    model = pruned(Mixer(after=True))
    for layer in (model.head, model.fc2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    assert fold_norms(model, images(1, torch.float32)) is model


class Called(TinyViT):
    """With an argument that an export gives it."""

    def forward(self, x, factor=1.0):
        return factor * super().forward(x)


@pytest.mark.full
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(('free', 'pads'), [({}, 0), ({0: 'batch'}, 0), ({2: 'height', 3: 'width'}, 7)])
def test_the_file_of_mmdeploy_has_none_either(tmp_path, free, pads):
    export = pytest.importorskip('mmdeploy.apis.onnx').export
    onnx, runtime = (pytest.importorskip(name) for name in ('onnx', 'mmprune.deploy.onnx_runtime'))
    importlib.import_module('mmprune.deploy.mmdeploy_export')
    model, x = pruned(Called(dim=16, heads=4, depth=3)), images(1, torch.float32)
    wanted = 3 * model(x)
    export(model, x, str(tmp_path / 'model'), input_metas=dict(factor=3.0), input_names=['input'],
           output_names=['output'], dynamic_axes={'input': free}, opset_version=11)
    assert sum(node.op_type == 'Pad' for node in onnx.load(str(tmp_path / 'model.onnx')).graph.node) == pads
    found = runtime.OnnxModel(tmp_path / 'model.onnx', 1)(x)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert count(model) == (0, 7)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('merged', ['blocks', 'turns'])
def test_sums_over_copies_are_exported_to_an_old_opset(tmp_path, merged):
    runtime = pytest.importorskip('mmprune.deploy.onnx_runtime')
    model, x = pruned(Mixer(merged=merged)), images(1, torch.float32)
    found = fold_norms(model, x)
    torch.onnx.export(found, (x, ), str(tmp_path / 'model.onnx'), opset_version=11, input_names=['input'],
                      **(dict(dynamo=False) if HAS_DYNAMO else {}))
    torch.testing.assert_close(runtime.OnnxModel(tmp_path / 'model.onnx', 1)(x)[0], model(x), rtol=1e-4, atol=1e-5)
