"""A segmentor's file is compared by the scores of all classes, also where it returns classes only."""
import contextlib
import io
import warnings

import pytest
import torch
from torch import nn

from mmprune.deploy.onnx_export import HAS_DYNAMO
from mmprune.deploy.onnx_runtime import OnnxModel, ParityError
from mmprune.deploy.segmentation import compare_segmentor, count_matches, write_undecided

pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')


class Segmentor(nn.Module):
    """What is asked of mmseg's; scores in half the size are resized to that of the image."""

    def __init__(self, classes=3):
        super().__init__()
        self.body, self.decode_head = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, classes, 1)
        self.decode_head.threshold = 0.3

    def encode_decode(self, x, metas):
        assert [tuple(meta['img_shape']) for meta in metas] == [tuple(x.shape[2:])] * len(x)
        scores = self.decode_head(torch.tanh(self.body(x)))
        return nn.functional.interpolate(scores, x.shape[2:], mode='bilinear')


class Deployed(nn.Module):
    """What mmdeploy exports."""

    def __init__(self, model, with_argmax=True, size=None):
        super().__init__()
        self.model, self.with_argmax, self.size = model, with_argmax, size

    def forward(self, x):
        scores = self.model.encode_decode(x, [dict(img_shape=x.shape[2:])] * len(x))
        if self.size is not None:  # where code computes with Python numbers
            scores = nn.functional.interpolate(scores, self.size, mode='bilinear')
        if scores.size(1) == 1:
            return (scores.sigmoid() > self.model.decode_head.threshold).to(torch.int64)
        return scores.argmax(dim=1, keepdim=True) if self.with_argmax else scores


X = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
FREE = {0: 'batch', 2: 'height', 3: 'width'}


@pytest.fixture
def export(tmp_path):
    def export(model, axes=None, **options):
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            torch.onnx.export(Deployed(model, **options).eval(), (X,), str(tmp_path / 'x.onnx'), input_names=['input'],
                              output_names=['output'], opset_version=13,
                              dynamic_axes=axes and {'input': axes, 'output': axes},
                              **(dict(dynamo=False) if HAS_DYNAMO else {}))
        return tmp_path / 'x.onnx'

    return export


@pytest.mark.parametrize(('classes', 'options', 'axes'), [
    (3, {}, None), (3, {}, {0: 'batch'}), (3, {}, FREE), (3, dict(with_argmax=False), None), (1, {}, None)])
def test_a_right_file_is_accepted_and_timed(classes, options, axes, export):
    model = Segmentor(classes).eval()
    segmented, timing = compare_segmentor(export(model, axes, **options), model, X, rounds=2)
    assert segmented.difference < 1e-5
    assert segmented.matched == segmented.total == 16 * 24
    assert {name: len(value.runs) for name, value in timing.latency.items()} == {'PyTorch': 3, 'onnxruntime': 3}


@pytest.mark.parametrize(('classes', 'options'), [(3, {}), (3, dict(with_argmax=False)), (1, {})])
def test_scores_that_are_one_per_cent_off_are_refused_though_every_class_is_right(classes, options, export):
    model = Segmentor(classes).eval()
    nn.init.zeros_(model.decode_head.bias)
    model.decode_head.threshold = 0.5
    path = export(model, **options)
    found = OnnxModel(path)(X)[0]
    with torch.no_grad():
        model.decode_head.weight *= 1.01
        scores = model.encode_decode(X, [dict(img_shape=X.shape[2:])])
    if options:
        found = found.argmax(1, keepdim=True)
    assert count_matches(scores, found, 0.0, 0.5) == 16 * 24
    with pytest.raises(ParityError, match='must not be deployed'):
        compare_segmentor(path, model, X, rounds=1)


def test_a_file_that_takes_any_size_but_knows_one_only_is_refused(export):
    model = Segmentor().eval()
    path = export(model, {2: 'height', 3: 'width'}, size=(16, 24))
    with pytest.raises(ParityError, match='any image size, but is wrong for 56 x 48 where its example was 24 x 16'):
        compare_segmentor(path, model, X, rounds=1)
    assert compare_segmentor(export(model, size=(16, 24)), model, X, rounds=1)[0].matched == 16 * 24


@pytest.mark.parametrize('classes', [1, 3])
def test_scores_are_read_before_the_decision(classes, export, tmp_path):
    model = Segmentor(classes).eval()
    path = export(model)
    assert not OnnxModel(path)(X)[0].is_floating_point()
    scores, = OnnxModel(write_undecided(path, tmp_path / 'scores.onnx'))(X)
    with torch.no_grad():
        wanted = model.encode_decode(X, [dict(img_shape=X.shape[2:])])
    assert torch.allclose(scores, wanted, atol=1e-5)


def test_a_class_may_differ_only_where_the_scores_leave_a_doubt():
    scores = torch.tensor([[[[4.0, 1.0, 2.0]], [[1.0, 1.001, 0.0]], [[0.0, -5.0, 0.0]]]])  # [1, 3, 1, 3]
    right = torch.tensor([[[[0, 1, 0]]]])
    assert count_matches(scores, right, 0.0) == 3
    near = torch.tensor([[[[0, 0, 0]]]])
    assert count_matches(scores, near, 0.001 / 5 * 1.1) == 2
    with pytest.raises(ParityError, match='1 of 3 pixels'):
        count_matches(scores, near, 0.001 / 5 * 0.9)
    with pytest.raises(ParityError, match='2 of 3 pixels'):
        count_matches(scores, torch.tensor([[[[2, 1, 2]]]]), 0.01)
    one = torch.tensor([[[[1.0, -1.0, 0.0]]]])  # one class, there from a probability of 0.5 on
    assert count_matches(one, torch.tensor([[[[1, 0, 0]]]]), 0.0, 0.5) == 3
    with pytest.raises(ParityError, match='2 of 3 pixels'):
        count_matches(one, torch.tensor([[[[0, 1, 1]]]]), 0.01, 0.5)
