"""Norms over feature maps, and those with an activation behind: removed channels count as zeros."""
import pytest
import torch
from torch import nn

from mmprune.deploy.onnx_export import export_onnx
from mmprune.units.attention.norm import (
    FormatStreamNorm,
    StreamMapNorm,
    StreamNorm2d,
    StreamNormAct,
    StreamNormAct2d,
    StreamRMSNorm2d,
)
from mmprune.units.attention.taking_over import NORMS, key_of, take_over

KEPT = [0, 2, 3, 6]


class Norm2d(nn.LayerNorm):
    def forward(self, x):
        return nn.LayerNorm.forward(self, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FormatNorm(nn.LayerNorm):
    data_format = 'channels_first'

    def forward(self, x):
        return Norm2d.forward(self, x) if self.data_format == 'channels_first' else super().forward(x)


class WithAct(nn.LayerNorm):
    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(0.0), nn.GELU()

    def forward(self, x):
        return self.act(super().forward(x))


class Norm2dWithAct(WithAct):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MapNorm(nn.GroupNorm):
    def __init__(self, channels):
        super().__init__(1, channels)


class RMSNorm2d(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(channels)), 1e-6

    def forward(self, x):
        return x * (x.square().mean(1, keepdim=True) + self.eps).rsqrt() * self.weight[:, None, None]


@pytest.mark.parametrize(('dense', 'ours'), [
    (Norm2d, StreamNorm2d), (WithAct, StreamNormAct), (Norm2dWithAct, StreamNormAct2d), (MapNorm, StreamMapNorm),
    (RMSNorm2d, StreamRMSNorm2d), (FormatNorm, FormatStreamNorm)])
def test_removed_channels_are_zeros(dense, ours, monkeypatch, tmp_path):
    monkeypatch.setitem(NORMS, key_of(dense), ours)
    whole, cut = dense(8).double(), dense(8).double()
    for name, value in whole.named_parameters():
        nn.init.normal_(value)
        getattr(cut, name).data.copy_(value.data)
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    x = x.transpose(1, 3) if dense is WithAct else x
    axis = 3 if dense is WithAct else 1
    x[(slice(None), ) * axis + ([1, 4, 5, 7], )] = 0
    kept = torch.tensor(KEPT)
    take_over([cut])
    assert isinstance(cut, ours)
    assert torch.allclose(cut(x), whole(x), rtol=0, atol=1e-14)
    for name in dict(whole.named_parameters()):
        setattr(cut, name, nn.Parameter(getattr(whole, name)[kept].detach()))
    expected = whole(x).index_select(axis, kept)
    assert torch.allclose(cut(x.index_select(axis, kept)), expected, rtol=0, atol=1e-14)
    check_exported(cut.float(), x.index_select(axis, kept).float(), tmp_path / 'norm.onnx')


def check_exported(model, x, path):
    session = pytest.importorskip('onnxruntime')
    export_onnx(model.eval(), x, path)
    found = session.InferenceSession(str(path), providers=['CPUExecutionProvider']).run(None, {'input': x.numpy()})[0]
    assert torch.allclose(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)
