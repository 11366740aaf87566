"""What stands in the place of norms over a stream that was cut, in a copy for deployment."""
from typing import NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn


class RootMeanSquareNorm(nn.Module):
    """``weight * x / sqrt(mean(x^2) + eps)`` of ``Tensor[..., K]``, as runtimes know it.

    Args:
        weight (Tensor[K]): The weight.
        eps (float): Added to the mean square.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight), eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise over the last axis."""
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Layout(NamedTuple):
    """How channels lie along an axis that holds each of them once or several times."""

    shape: Tuple[int, int]  #: channels, and how often they lie there, the faster one last
    channels: int  #: which of the two are channels

    @classmethod
    def of(cls, index: np.ndarray) -> Optional['Layout']:
        """Return the layout of ``ndarray[K, copies]``, where each channel lies; None for no such order."""
        kept, copies = index.shape
        places: np.ndarray = np.arange(index.size)
        if np.array_equal(index, places.reshape(copies, kept).T):
            return cls((copies, kept), 1)
        return cls((kept, copies), 0) if np.array_equal(index, places.reshape(kept, copies)) else None


class AddedSum(nn.Module):
    """``x + factor * sum(x)`` over channels that lie along an axis, once or several times.

    Args:
        factor (float): The factor.
        axis (int): Of the channels.
        layout (Layout): How they lie there.
    """

    def __init__(self, factor: float, axis: int, layout: Layout) -> None:
        super().__init__()
        self.factor, self.axis, self.layout = factor, axis, layout

    def forward(self, x: Tensor) -> Tensor:
        """Return ``Tensor[..., K, ...]`` of the same shape."""
        if 1 in self.layout.shape:
            return x + self.factor * x.sum(self.axis, keepdim=True)
        axis = self.axis % x.dim()
        parts = x.reshape(*x.shape[:axis], *self.layout.shape, *x.shape[axis + 1:])  # every opset has it
        return (parts + self.factor * parts.sum(axis + self.layout.channels, keepdim=True)).reshape(x.shape)
