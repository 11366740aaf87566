"""Norms over a stream of which channels were removed: exact, since removed channels count as zeros."""
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def padded(tensor: Tensor, missing: int, axis: int) -> Tensor:
    """Return a tensor with zeros for what was removed behind what is left along an axis."""
    return F.pad(tensor, [*[0, 0] * (tensor.dim() - 1 - axis), 0, missing])


def padded_parameter(parameter: Optional[Tensor], missing: int) -> Optional[Tensor]:
    """Return the same of a norm's weight or bias; exporters to ONNX make one constant of it."""
    return None if parameter is None else torch.cat([parameter, parameter.new_zeros(missing)])


class StreamNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the channels of a stream that are left, which computes what it did over all of them.

    The masked stream has zeros where channels are removed, and so has what is normalised here, behind the ``K`` kept of
    ``C`` channels: the mean is ``sum(x) / C`` and the variance ``(sum((x - mean)^2) + (C - K) mean^2) / C``.

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
        missing = self.dense_width - kept if self.counts_removed else 0
        if not missing:
            return F.layer_norm(x, (kept, ), self.weight, self.bias, self.eps)
        # one norm of torch's over zeros: its parts over what is left take three times as long, backward included
        out = F.layer_norm(padded(x, missing, x.dim() - 1), (self.dense_width, ),
                           padded_parameter(self.weight, missing), padded_parameter(self.bias, missing), self.eps)
        return out[..., :kept].contiguous()

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


class FormatStreamNorm(StreamNorm):
    """The same with the layout of the map as an attribute, as ConvNeXt of transformers has it."""

    data_format: str

    @property
    def axis(self) -> int:  # type: ignore[override]
        """That of the channels."""
        return 1 if self.data_format == 'channels_first' else -1

    def forward(self, features: Tensor) -> Tensor:
        """Normalise ``Tensor[N, K, H, W]`` where ``data_format`` is ``channels_first``, else ``Tensor[N, H, W, K]``."""
        if self.axis != 1:
            return self._apply_norm(features)
        return self._apply_norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class StreamMapNorm(StreamRMSNorm):
    """A group norm of one group, over all channels and places of ``Tensor[N, K, ...]``."""

    axis = 1
    bias: Any
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a feature map."""
        kept = self.weight.numel()
        missing = self.dense_width - kept if self.counts_removed else 0
        if not missing:
            return F.group_norm(input, 1, self.weight, self.bias, self.eps)
        out = F.group_norm(padded(input, missing, 1), 1, padded_parameter(self.weight, missing),
                           padded_parameter(self.bias, missing), self.eps)
        return out[:, :kept].contiguous()


def is_over_channels(norm: nn.Module) -> bool:
    """Tell whether a norm is over one axis and has a weight, which a cut can follow."""
    return isinstance(norm.weight, Tensor) and norm.weight.dim() == 1
