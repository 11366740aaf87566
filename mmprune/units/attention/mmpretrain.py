"""Attentions of mmpretrain, and of mmcls, as its first versions are called, by class name."""
from typing import Any, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .axes import split_axis
from .product import AttentionProduct
from .products import CovarianceProduct
from .taking_over import PrunableAttention, register_attention
from .timm import PackedAttention
from .timm_mixing import TimmChannelAttention, TimmCrossCovariance
from .timm_reduced import TimmClassAttention
from .timm_windows import CosineAttention, mask_of_windows, places_in_windows, places_of_windows


def _of_both(name: str, *copies: str) -> Any:
    """Register the attention of both, and of packages that have a copy of the class."""
    return register_attention(*(f'{package}.{name}' for package in ('mmpretrain', 'mmcls', *copies)))


# XCiT and DaViT, written as in timm
for _name, _forward in (('XCA', TimmCrossCovariance), ('ClassAttntion', TimmClassAttention),
                        ('ChannelAttention', TimmChannelAttention)):
    _of_both(_name)(_forward)


class _ProjectedAttention(PrunableAttention):
    """Of tokens anywhere, with a projection and dropouts behind it."""

    proj: Any
    proj_drop: Any
    out_drop: Any

    def unfit(self) -> Optional[str]:
        """Return what goes past the product."""
        return 'its values go past its projection, too' if self.v_shortcut else None


class _ScaledAttention(_ProjectedAttention):
    """The product is one function of the library."""

    def begin(self) -> None:
        """Write the sizes down; the scale is that of the function which the dense module calls."""
        scale, function = getattr(self, 'scale', None), getattr(self, 'scaled_dot_product_attention', None)
        divisor = getattr(function, 'keywords', {}).get('scale')
        drop: Any = self.attn_drop
        self.product = AttentionProduct(self.num_heads, self.head_dims, self.head_dims,
                                        1 / divisor if divisor else scale, dropout=getattr(drop, 'p', drop))


@_of_both('MultiheadAttention')
class TokenAttention(_ScaledAttention):
    """Of vision transformers: one layer for queries, keys and values, side by side."""

    qkv: Any
    gamma1: Any

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        return self.out_drop(self.gamma1(self.proj_drop(self.proj(self.product(self.qkv(x))))))


@_of_both('GlobalSubsampledAttention')
class SubsampledAttention(_ScaledAttention):
    """Of Twins (Chu et al., NeurIPS 2021): keys and values of a smaller map."""

    q: Any
    kv: Any

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Return the attention of ``Tensor[B, H * W, C]`` to its map, which a strided convolution makes smaller."""
        q = self.q(x)
        if self.sr_ratio > 1:
            x = self.norm(self.sr(split_axis(x.transpose(1, 2), 2, tuple(hw_shape))).flatten(2).transpose(1, 2))
        return self.out_drop(self.proj_drop(self.proj(self.product(q, self.kv(x)))))


@_of_both('ChannelMultiheadAttention')
class ChannelAttention(_ProjectedAttention):
    """Over channels instead of tokens (El-Nouby et al., NeurIPS 2021): heads, and dimensions of the queries."""

    qkv: Any

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = CovarianceProduct(self.num_heads, self.head_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of the channels of ``Tensor[B, N, C]`` to one another."""
        scale = self.scale if isinstance(self.scale, Tensor) else self.qkv.weight.new_full((1, 1, 1), self.scale)
        return self.out_drop(self.proj_drop(self.proj(self.product(self.qkv(x), temperature=scale))))


def _projected(attention: Any, x: Tensor) -> Tensor:
    """Return queries, keys and values of tokens, side by side; biases of queries and values may be parameters."""
    packed: Tensor = attention.qkv(x)
    q_bias, v_bias = getattr(attention, 'q_bias', None), getattr(attention, 'v_bias', None)
    if q_bias is None or v_bias is None:
        return packed
    keys = packed.new_zeros(packed.size(-1) - q_bias.size(0) - v_bias.size(0))
    return packed + torch.cat((q_bias, keys, v_bias))


def _looked_up(attention: Any, table: Tensor) -> Tensor:
    """Return what a table ``Tensor[distances, heads]`` adds to the products, ``Tensor[1, heads, N, N]``."""
    index = attention.relative_position_index
    return split_axis(table[index.view(-1)], 0, index.shape).permute(2, 0, 1).unsqueeze(0)


@_of_both('DaViTWindowMSA')
@_of_both('WindowMSA', 'mmdet', 'mmseg', 'mmpose')
class WindowAttention(PackedAttention):
    """Tokens of a window see one another.

    Of Swin (Liu et al., ICCV 2021), HRFormer (Yuan et al., NeurIPS 2021) and DaViT (Ding et al., ECCV 2022).
    """

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Return the attention of ``Tensor[B * windows, N, C]``; the mask is ``Tensor[windows, N, N]``."""
        table: Any = getattr(self, 'relative_position_bias_table', None)
        bias = None if table is None else _looked_up(self, table)
        return self._projected(self.product(self.qkv(x), bias=bias, mask=mask_of_windows(mask, x.size(0))))


@_of_both('WindowMSAV2')
class CosineWindowAttention(CosineAttention):
    """Of Swin V2 (Liu et al., CVPR 2022): by the cosine of queries and keys, with a table that a small net computes."""

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Return the attention of ``Tensor[B * windows, N, C]``; the mask is ``Tensor[windows, N, N]``."""
        table = self.cpb_mlp(self.relative_coords_table).flatten(0, 2)
        return self._read(_projected(self, x), 16 * _looked_up(self, table).sigmoid(), mask)


@_of_both('BEiTAttention', 'mmseg')
class TabledAttention(PackedAttention):
    """Of BEiT (Bao et al., ICLR 2022): with a table of its own, or one for all layers."""

    def forward(self, x: Tensor, rel_pos_bias: Optional[Tensor] = None) -> Tensor:
        """Return the attention of ``Tensor[B, N, C]``, with ``rel_pos_bias`` of shape ``[heads, N, N]``."""
        table: Any = self.relative_position_bias_table
        bias = None if table is None else _looked_up(self, table)
        if rel_pos_bias is not None:
            bias = rel_pos_bias if bias is None else bias + rel_pos_bias
        return self._projected(self.product(_projected(self, x), bias=bias))


@_of_both('LeAttention')
class BiasedAttention(PrunableAttention):
    """Of TinyViT (Wu et al., ECCV 2022): with a number for each distance of two tokens."""

    norm: Any
    qkv: Any
    proj: Any
    attention_biases: Any

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.key_dim, self.d, self.scale, by_head=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        bias = self.attention_biases[:, self.attention_bias_idxs]
        return self.proj(self.product(self.qkv(self.norm(x)), bias=bias))


@_of_both('LocallyGroupedSelfAttention', 'mmseg')
class GroupedAttention(PackedAttention):
    """Of Twins (Chu et al., NeurIPS 2021): tokens of a window see one another."""

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:  # type: ignore[override]
        """Return the attention of ``Tensor[B, H * W, C]`` within windows; padding of the map stays apart."""
        size, (height, width) = self.window_size, hw_shape
        below, right = -height % size, -width % size
        x = F.pad(split_axis(x, 1, (height, width)), (0, 0, 0, right, 0, below))
        padded, windows = list(x.shape[1:3]), places_in_windows(x, size)
        mask = mask_of_windows(_padding(x, below, right, size), windows.size(0))
        out = places_of_windows(self.product(self.qkv(windows), mask=mask), size, padded)
        return self._projected(out[:, :height, :width].flatten(1, 2))


def _padding(x: Tensor, below: int, right: int, size: int) -> Optional[Tensor]:
    """Return what keeps padding and the rest of a window apart, ``Tensor[windows, N, N]``.

    As in the library, which has none where only one side is padded.
    """
    if not below or not right:
        return None
    padding = x.new_zeros(1, *x.shape[1:3], 1)
    padding[:, -below:] = 1
    padding[:, :, -right:] = 1
    padding = places_in_windows(padding, size)
    return (padding != padding.transpose(1, 2)) * -1000.0
