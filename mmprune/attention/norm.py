"""Norms over a stream of which channels were removed: exact, since removed channels count as zeros."""
from typing import Any, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .versions import is_autocast


def standardised(x: Tensor, axes: List[int], present: int, dense: float, eps: float) -> Tensor:
    """Return values less their mean over their deviation, among which those that were removed count as zeros.

    Args:
        x (Tensor): The values that are present.
        axes (list[int]): That it is over.
        present (int): Values along these axes.
        dense (float): Values of the dense model along these axes.
        eps (float): Added to the variance.
    """
    mean = x.sum(axes, keepdim=True) / dense
    centred = x - mean
    variance = (centred.square().sum(axes, keepdim=True) + (dense - present) * mean.square()) / dense
    return centred * (variance + eps).rsqrt()


class StreamNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the channels of a stream that are left, which computes what it did over all of them.

    The masked stream has zeros where channels are removed. Of ``K`` kept of ``C`` channels the mean is
    ``sum(x) / C`` and the variance ``(sum((x - mean)^2) + (C - K) mean^2) / C``.

    Attributes:
        dense_width (int): ``C``.
        axis (int): That of the channels.
        counts_removed (bool): Whether removed channels count as zeros; else the norm is a plain one over what is left,
            which is faster and no longer equal to the masked model.
    """

    dense_width: int
    axis = -1
    counts_removed = True

    def begin(self) -> None:
        """Take over from a dense layer norm."""
        self.dense_width = int(self.normalized_shape[0])

    def _apply_norm(self, x: Tensor) -> Tensor:
        kept = self.weight.numel()
        if kept == self.dense_width or not self.counts_removed:
            return F.layer_norm(x, (kept, ), self.weight, self.bias, self.eps)
        weight, bias = self.weight, self.bias
        dtype = x.dtype
        if is_autocast(x) or dtype in (torch.float16, torch.bfloat16):
            x, weight = x.float(), weight.float()
            bias = bias if bias is None else bias.float()
            dtype = torch.float32 if is_autocast(x) else dtype
        out = standardised(x, [-1], kept, self.dense_width, self.eps) * weight
        return (out if bias is None else out + bias).to(dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``Tensor[..., K]``."""
        return self._apply_norm(input)


class StreamNorm2d(StreamNorm):
    """The same over axis 1 of a feature map ``Tensor[N, K, H, W]``."""

    axis = 1

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Normalise ``Tensor[N, K, H, W]``."""
        return self._apply_norm(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class StreamNormAct(StreamNorm):
    """With timm's dropout and activation behind it."""

    drop: Any
    act: Any

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``Tensor[..., K]``."""
        return self.act(self.drop(super().forward(input)))  # type: ignore[no-any-return]


class StreamNormAct2d(StreamNorm2d):
    """The same over axis 1."""

    drop: Any
    act: Any

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Normalise ``Tensor[N, K, H, W]``."""
        return self.act(self.drop(super().forward(input)))  # type: ignore[no-any-return]


class LayoutStreamNorm2d(StreamNorm2d):
    """The same with the layout of the map as an argument, as mmpretrain's ``LN2d`` has it."""

    def forward(self, input: Tensor, data_format: str = 'channel_first') -> Tensor:
        """Normalise ``Tensor[N, K, H, W]``, or ``Tensor[N, H, W, K]`` where ``data_format`` is ``channel_last``."""
        return self._apply_norm(input) if data_format == 'channel_last' else super().forward(input).contiguous()


class StreamRMSNorm(nn.Module):
    """A root mean square norm over the channels of a stream that are left: the mean is ``sum(x^2) / C``.

    The norms of all libraries that write ``weight * x / sqrt(mean(x^2) + eps)``, in float32 at least.

    Attributes:
        dense_width (int): ``C``.
        counts_removed (bool): See :class:`StreamNorm`.
    """

    dense_width: int
    axis = -1
    counts_removed = True
    weight: Tensor

    def begin(self) -> None:
        """Take over from a dense norm."""
        self.dense_width = self.weight.numel()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``Tensor[..., K]``."""
        eps = getattr(self, 'variance_epsilon', None) or getattr(self, 'eps', None) or torch.finfo(input.dtype).eps
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        square = x.square().sum(-1, keepdim=True) / (self.dense_width if self.counts_removed else self.weight.numel())
        return self.weight * (x * (square + eps).rsqrt()).to(input.dtype)


class StreamRMSNorm2d(StreamRMSNorm):
    """The same over axis 1 of a feature map ``Tensor[N, K, H, W]``."""

    axis = 1

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``Tensor[N, K, H, W]``."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class StreamMapNorm(StreamRMSNorm):
    """A group norm of one group, over all channels and places of ``Tensor[N, K, ...]``."""

    axis = 1
    bias: Any
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a feature map."""
        kept = self.weight.numel()
        if kept == self.dense_width or not self.counts_removed:
            return F.group_norm(input, 1, self.weight, self.bias, self.eps)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes = list(range(1, x.dim()))
        present = x[0].numel()
        shape = (-1, *[1] * (x.dim() - 2))
        out = standardised(x, axes, present, present / kept * self.dense_width, self.eps) * self.weight.view(shape)
        return (out if self.bias is None else out + self.bias.view(shape)).to(input.dtype)


def is_over_channels(norm: nn.Module) -> bool:
    """Tell whether a norm is over one axis and has a weight, which a cut can follow."""
    return isinstance(norm.weight, Tensor) and norm.weight.dim() == 1
