"""Rotary positions of queries and keys whose heads have lost pairs of dimensions, each its own."""
from typing import Tuple

import torch
from torch import Tensor, nn

from .axes import split_axis


class Rotary(nn.Module):
    """Turns every pair of a head's dimensions by the angle of a token.

    Dimension ``i`` goes with ``i + dims / 2`` or, among neighbours, ``2 i`` with ``2 i + 1``. A pair stays or goes as a
    whole. Tables of angles are those of the dense model; written down is which of their columns a channel reads.

    Args:
        heads (int): Heads.
        dims (int): Channels of a head.
        neighbours (bool): Pairs lie side by side.

    Attributes:
        place (LongTensor[heads * dims]): The dimension of each channel in the dense model; a buffer that is not saved.
    """

    place: Tensor

    def __init__(self, heads: int, dims: int, neighbours: bool = False) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.register_buffer('place', torch.arange(dims).repeat(heads), persistent=False)

    def pairs(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Return the first and the second of each pair of the last axis, ``Tensor[..., dims / 2]`` each."""
        pairs = split_axis(x, -1, (-1, 2)) if self.neighbours else split_axis(x, -1, (2, -1)).transpose(-1, -2)
        return pairs.unbind(-1)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
        """Return ``Tensor[B, N, channels]``, of which as many tokens are turned as the tables have, the last ones.

        Args:
            x (Tensor[B, N, channels]): Queries or keys.
            cos (Tensor[..., n, dims]): Cosines of the angles of ``n`` tokens.
            sin (Tensor[..., n, dims]): Their sines.
            heads (int): How many are left.
        """
        first = x.size(1) - cos.size(-2)
        still, x = x[:, :first], x[:, first:]
        lower, upper = self.pairs(split_axis(x, -1, (heads, -1)))
        crossed = torch.stack((-upper, lower), -1 if self.neighbours else -2).flatten(-3)
        turned = x * cos[..., self.place] + crossed * sin[..., self.place]
        return torch.cat((still, turned), 1) if first else turned
