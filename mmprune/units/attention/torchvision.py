"""Attentions of torchvision: windows of Swin, windows and grids of MaxViT."""
import itertools
import math
from typing import Any, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .parameter_linear import ParameterLinear
from .product import AttentionProduct
from .products import CosineProduct
from .taking_over import PrunableAttention, register_attention


@register_attention('torchvision.ShiftedWindowAttention')
class ShiftedWindowAttention(PrunableAttention):
    """Of Swin: inside windows, every second time of a map that is shifted."""

    def begin(self) -> None:
        """Write the sizes down."""
        dims = self.proj.in_features // self.num_heads
        self.product = AttentionProduct(self.num_heads, dims, dims, dropout=self.attention_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of places of ``Tensor[B, H, W, C]`` to those in the same window."""
        size, (height, width) = x.shape[1:3], self.window_size
        x = F.pad(x, (0, 0, 0, -size[1] % width, 0, -size[0] % height))
        padded = x.shape[1:3]
        shift = [0 if window >= whole else own for window, whole, own in zip(self.window_size, padded, self.shift_size)]
        if sum(shift):
            x = x.roll((-shift[0], -shift[1]), (1, 2))
        across = padded[0] // height, padded[1] // width
        x = x.unflatten(2, (across[1], width)).unflatten(1, (across[0], height)).transpose(2, 3)
        x = x.flatten(3, 4).flatten(0, 2)  # [B * windows, places, C]
        x = self._attend(x, _region_mask(x, padded, self.window_size, shift) if sum(shift) else None)
        x = F.dropout(self.proj(x), self.dropout, self.training)
        x = x.unflatten(0, (-1, *across)).unflatten(3, (height, width)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if sum(shift):
            x = x.roll((shift[0], shift[1]), (1, 2))
        return x[:, :size[0], :size[1]].contiguous()

    def _attend(self, x: Tensor, mask: Any) -> Tensor:
        """Return what the heads read of windows ``Tensor[B, N, C]``; ``mask`` is that of the windows of one image."""
        mask = None if mask is None else mask.repeat(len(x) // len(mask), 1, 1, 1)
        return self.product(self.qkv(x), bias=self.get_relative_position_bias(), mask=mask)  # type: ignore[no-any-return]


@register_attention('torchvision.ShiftedWindowAttentionV2')
class ShiftedWindowAttentionV2(ShiftedWindowAttention):
    """Of Swin V2: cosine attention, keys without a bias, and a bias of places that is computed from their distance."""

    adds = ('product', 'qkv_rows')

    def begin(self) -> None:
        """Write the sizes down."""
        dims = self.proj.in_features // self.num_heads
        self.product = CosineProduct(self.num_heads, dims, dims, self.attention_dropout)
        self.qkv_rows = ParameterLinear()

    def _attend(self, x: Tensor, mask: Any) -> Tensor:
        mask = None if mask is None else mask.repeat(len(x) // len(mask), 1, 1, 1)
        bias = self.cpb_mlp(self.relative_coords_table).flatten(0, -2)[self.relative_position_index]
        bias = 16 * bias.unflatten(0, (x.size(1), -1)).permute(2, 0, 1).unsqueeze(0).sigmoid()
        first = [0, *itertools.accumulate(self.product.sizes)]
        parts = [self.qkv_rows(x, self.qkv.weight, self.qkv.bias, start, stop, adds_bias=place != 1)
                 for place, (start, stop) in enumerate(zip(first, first[1:]))]
        temperature = self.logit_scale.clamp(max=math.log(100.0)).exp()
        return self.product(*parts, bias=bias, mask=mask, temperature=temperature)  # type: ignore[no-any-return]


def _region_mask(x: Tensor, size: Tuple[int, int], window: List[int], shift: List[int]) -> Tensor:
    """Return what keeps places apart that a shift has brought into one window, ``Tensor[windows, 1, N, N]``."""
    regions = [torch.bucketize(torch.arange(whole, device=x.device), torch.tensor(
        [whole - inside, whole - moved], device=x.device), right=True) if moved else torch.zeros(
            whole, dtype=torch.long, device=x.device) for whole, inside, moved in zip(size, window, shift)]
    region = 3 * regions[0][:, None] + regions[1]
    region = region.unflatten(1, (-1, window[1])).unflatten(0, (-1, window[0])).transpose(1, 2).flatten(2).flatten(0, 1)
    apart = region[:, :, None] != region[:, None]
    return torch.zeros_like(apart, dtype=x.dtype).masked_fill(apart, -100.0)[:, None]


@register_attention('torchvision.RelativePositionalMultiHeadAttention')
class PartitionAttention(PrunableAttention):
    """Of MaxViT: of tokens in the same window, or at the same place of a grid."""

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.n_heads, self.head_dim, self.head_dim, self.scale_factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, G, P, C]`` to those of their group."""
        out = self.product(self.to_qkv(x.flatten(0, 1)), bias=self.get_relative_positional_bias())
        return self.merge(out).unflatten(0, x.shape[:2])  # type: ignore[no-any-return]
