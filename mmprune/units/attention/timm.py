"""Attentions of timm that compare all tokens of an image or of a window with one another."""
from typing import Any, Callable, Optional, Tuple, Type

import torch
from torch import Tensor, nn

from .product import AttentionProduct
from .products import DimsFirstProduct, PooledProduct
from .taking_over import PrunableAttention, register_attention


class PackedAttention(PrunableAttention):
    """One layer for queries, keys and values, side by side."""

    qkv: Any
    proj: Any
    product_class: Type[AttentionProduct] = AttentionProduct

    def begin(self) -> None:
        """Write the sizes down."""
        heads = getattr(self, 'num_heads', None) or self.heads
        dims = self.qkv.weight.size(0) // (3 * heads)
        dropout = getattr(self, 'attn_drop', None)
        self.product = self.product_class(heads, dims, dims, self.scale, dropout=dropout.p if dropout else 0.0)

    def _projected(self, x: Tensor) -> Tensor:
        """Return the projection of what the heads read."""
        x = self.proj(x)
        drop = getattr(self, 'proj_drop', None)
        return x if drop is None else drop(x)  # type: ignore[no-any-return]


@register_attention('timm.models.convit.MHSA', 'timm.models.davit.WindowAttention')
class TimmPlainAttention(PackedAttention):
    """With nothing between the projections but the product."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        return self._projected(self.product(self.qkv(x)))


@register_attention('timm.layers.attention.Attention', 'timm.models.vision_transformer.Attention')
class TimmAttention(PackedAttention):
    """Of vision transformers."""

    def unfit(self) -> Optional[str]:
        """Return what is not followed."""
        return None if isinstance(self.qkv, nn.Linear) else 'it has no single layer for queries, keys and values'

    def forward(self, x: Tensor, attn_mask: Optional[Tensor] = None, is_causal: bool = False) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        gate = self.gate(x).sigmoid() if getattr(self, 'gate', None) is not None else None
        norm = getattr(self, 'norm', None)
        out = self.product(self.qkv(x), mask=attn_mask, q_norm=self.q_norm, k_norm=self.k_norm, causal=is_causal)
        out = out if norm is None else norm(out)
        return self._projected(out if gate is None else out * gate)


def packed_with_biases(attention: Any, x: Tensor) -> Tensor:
    """Return queries, keys and values of tokens; biases of queries and values may be parameters of the attention."""
    packed: Tensor = attention.qkv(x)
    if attention.q_bias is not None:
        packed = packed + torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    return packed


@register_attention('timm.models.eva.EvaAttention', 'timm.layers.attention.AttentionRope')
class TimmRotaryAttention(PrunableAttention):
    """With rotary positions, and with one layer or three for queries, keys and values."""

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.head_dim, self.head_dim, self.scale,
                                        getattr(self, 'num_kv_heads', None), self.attn_drop.p,
                                        rotary=True if getattr(self, 'rotate_half', False) else 'neighbours')

    def _parts(self, x: Tensor) -> Tuple[Tensor, ...]:
        if self.qkv is None:
            return self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return (packed_with_biases(self, x) if hasattr(self, 'q_bias') else self.qkv(x), )

    def forward(self, x: Tensor, rope: Optional[Tensor] = None, attn_mask: Optional[Tensor] = None,
                is_causal: bool = False) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]``; ``rope`` holds sines and cosines of the angles."""
        angles = None if rope is None else rope.chunk(2, -1)[::-1]
        gate = self.gate(x).sigmoid() if self.gate is not None else None
        out = self.norm(self.product(*self._parts(x), mask=attn_mask, q_norm=self.q_norm, k_norm=self.k_norm,
                                     causal=is_causal, angles=angles))
        return self.proj_drop(self.proj(out if gate is None else out * gate))  # type: ignore[no-any-return]


@register_attention('timm.models.beit.Attention')
class TimmBeitAttention(PackedAttention):
    """Of BEiT: biases of its own for queries and values, and for pairs of places."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Optional[Tensor] = None) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        bias = shared_rel_pos_bias
        if self.relative_position_bias_table is not None:
            own = self._get_rel_pos_bias()
            bias = own if bias is None else own + bias
        return self._projected(self.product(packed_with_biases(self, x), bias=bias))


@register_attention('timm.models.vision_transformer_relpos.RelPosAttention')
class TimmRelPosAttention(PackedAttention):
    """With a bias for pairs of places, of a module of its own or of the model."""

    def forward(self, x: Tensor, shared_rel_pos: Optional[Tensor] = None) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        bias = shared_rel_pos if self.rel_pos is None else self.rel_pos.get_bias()
        return self._projected(self.product(self.qkv(x), bias=bias, q_norm=self.q_norm, k_norm=self.k_norm))


@register_attention('timm.models.volo.Attention', 'timm.models.metaformer.Attention')
class TimmGridAttention(PackedAttention):
    """Of tokens, or on a grid ``Tensor[B, H, W, C]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens of an image to one another."""
        return self._projected(self.product(self.qkv(x.flatten(1, -2))).unflatten(1, x.shape[1:-1]))


@register_attention('timm.models.nest.Attention')
class TimmBlockAttention(PackedAttention):
    """Of NesT: of tokens in blocks, ``Tensor[B, blocks, N, C]``."""

    product_class = DimsFirstProduct

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens of a block to one another."""
        return self._projected(self.product(self.qkv(x.flatten(0, 1))).unflatten(0, x.shape[:2]))


@register_attention('timm.models.fastvit.Attention')
class TimmMapAttention(PackedAttention):
    """Of a feature map, through linear layers."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of places of ``Tensor[B, C, H, W]`` to one another."""
        size = x.shape[-2:]
        out = self._projected(self.product(self.qkv(x.flatten(2).transpose(1, 2))))
        return out.transpose(1, 2).unflatten(-1, size)


@register_attention('timm.models.visformer.Attention', 'timm.layers.attention2d.Attention2d')
class TimmConvAttention(PackedAttention):
    """Of a feature map, through 1x1 convolutions."""

    def begin(self) -> None:
        """Write the sizes down."""
        heads, dims = self.num_heads, self.qkv.weight.size(0) // (3 * self.num_heads)
        self.product = AttentionProduct(heads, dims, dims, dims ** -0.5, dropout=self.attn_drop.p,
                                        by_head=getattr(self, 'head_first', False))

    def forward(self, x: Tensor, attn_mask: Optional[Tensor] = None) -> Tensor:
        """Return the attention of places of ``Tensor[B, C, H, W]`` to one another."""
        out = self.product(self.qkv(x).flatten(2).transpose(1, 2), mask=attn_mask)
        return self._projected(out.transpose(1, 2).unflatten(-1, x.shape[-2:]))


@register_attention('timm.models.hiera.MaskUnitAttention')
class TimmMaskUnitAttention(PackedAttention):
    """Of Hiera: of the tokens of a mask unit to one another, with queries that may be the largest of a few tokens."""

    product_class = PooledProduct

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]``, of which units lie interleaved."""
        batch, tokens = x.shape[:2]
        units = tokens // (self.q_stride * self.window_size) if self.use_mask_unit_attn else 1
        packed = self.qkv(x).unflatten(1, (-1, units)).transpose(1, 2).flatten(0, 1)
        stride = self.q_stride
        pool = (lambda q: q.unflatten(1, (stride, -1)).amax(1)) if stride > 1 else None
        out = self.product(packed, pool=pool).unflatten(0, (batch, units)).transpose(1, 2).flatten(1, 2)
        return self._projected(out)


@register_attention('timm.models.hieradet_sam2.MultiScaleAttention')
class TimmPooledQueryAttention(PackedAttention):
    """Of SAM 2: queries may be pooled over the image."""

    product_class = PooledProduct

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens of ``Tensor[B, H, W, C]`` to one another."""
        height, width = x.shape[1:3]
        pool, size = None, (height, width)
        if self.q_pool is not None:
            size = self.q_pool(x.new_zeros(1, 1, height, width)).shape[-2:]
            pool = self._pooled(height, width)
        out = self.product(self.qkv(x.flatten(1, 2)), pool=pool)
        return self._projected(out.unflatten(1, size))

    def _pooled(self, height: int, width: int) -> Callable[[Tensor], Tensor]:
        return lambda q: self.q_pool(q.transpose(1, 2).unflatten(-1, (height, width))).flatten(2).transpose(1, 2)
