"""Constants of the width of a stream, such as positions by sines, of which the channels that are left are taken."""
import torch
from torch import Tensor, nn

from .axes import split_axis


class KeptChannels(nn.Module):
    """Takes those channels of a constant that are left; masked ones are zero.

    Args:
        channels (int): Channels of the constant.
        axis (int): Its axis of channels.

    Attributes:
        index (LongTensor[K]): The channels that are left; it is not saved.
        weight (Tensor[K]): Ones; it is not saved.
    """

    index: Tensor
    weight: Tensor

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer('index', torch.arange(channels), persistent=False)
        self.register_buffer('weight', torch.ones(channels), persistent=False)

    def forward(self, constant: Tensor) -> Tensor:
        """Return what is left of a constant ``Tensor[..., C, ...]``."""
        if len(self.index) < constant.size(self.axis):
            constant = constant.index_select(self.axis, self.index.to(constant.device))
        weight = self.weight.to(constant.device, constant.dtype)
        return constant * split_axis(weight, 0, (-1, *[1] * (constant.dim() - 1 - self.axis % constant.dim())))
