"""Attentions of timm over feature maps: MViT, SAM, and the linear one of EfficientViT."""
from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor, nn

from .place_products import FactorisedProduct, LinearProduct, PlaceProduct, pools_of, size_after
from .product import AttentionProduct
from .taking_over import PrunableAttention, register_attention
from .timm import PackedAttention


@register_attention('timm.models.mvitv2.MultiScaleAttention')
class TimmPooledAttention(PackedAttention):
    """Of MViT: queries, keys and values are pooled head by head."""

    def unfit(self) -> Optional[str]:
        """Return what is not followed."""
        return None if self.mode == 'conv' else f'its mode is {self.mode!r}'

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = PlaceProduct(self.num_heads, self.head_dim, self.head_dim, self.scale)

    def forward(self, x: Tensor, feat_size: List[int]) -> Tuple[Tensor, Any]:
        """Return the attention of tokens ``Tensor[B, N, C]`` of a feature map, and the size of the pooled one."""
        pools = pools_of(self)
        places = dict(rows=self.rel_pos_h, columns=self.rel_pos_w) if self.rel_pos_type == 'spatial' else {}
        out = self.product(self.qkv(x), size=feat_size, pools=pools, first=int(self.has_cls_token),
                           residual=self.residual_pooling, **places)
        return self.proj(out), size_after(pools[0], feat_size)


@register_attention('timm.models.vision_transformer_sam.Attention')
class TimmMapPlacesAttention(PackedAttention):
    """Of SAM: tokens on a grid, with positions along both axes."""

    def unfit(self) -> Optional[str]:
        """Return what is not followed."""
        return None if self.rope is None else 'its positions are rotary'

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = PlaceProduct(self.num_heads, self.head_dim, self.head_dim, self.scale, dropout=self.attn_drop.p)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens of ``Tensor[B, H, W, C]`` to one another."""
        size = x.shape[1:3]
        places = dict(rows=self.rel_pos_h, columns=self.rel_pos_w) if self.use_rel_pos else {}
        norms = [None if isinstance(norm, nn.Identity) else norm for norm in (self.q_norm, self.k_norm)]
        out = self.product(self.qkv(x.flatten(1, 2)), size=size, norms=norms, **places)
        return self._projected(out).unflatten(1, size)


@register_attention('timm.models.efficientvit_mit.LiteMLA')
class TimmLinearAttention(PrunableAttention):
    """Of EfficientViT: without a softmax, over the projections and what convolutions make of them."""

    def begin(self) -> None:
        """Write the sizes down."""
        channels = self.qkv.conv.weight.size(0) * (1 + len(self.aggreg))
        self.product: AttentionProduct = LinearProduct(channels // (3 * self.dim), self.dim, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Return a feature map ``Tensor[B, C, H, W]``."""
        packed = self.qkv(x)
        packed = torch.cat([packed, *(layer(packed) for layer in self.aggreg)], 1)
        out = self.product(packed.flatten(2).transpose(1, 2), kernel=self.kernel_func)
        return self.proj(out.transpose(1, 2).unflatten(-1, x.shape[-2:]))  # type: ignore[no-any-return]


@register_attention('timm.models.coat.FactorAttnConvRelPosEnc')
class TimmFactorisedAttention(PackedAttention):
    """Of CoaT: linear in the tokens, with convolved values as positions."""

    def begin(self) -> None:
        """Write the sizes down."""
        dims = self.proj.weight.size(1) // self.num_heads
        self.product = FactorisedProduct(self.num_heads, dims, self.scale)

    def forward(self, x: Tensor, size: Any) -> Tensor:
        """Return the attention of tokens ``Tensor[B, 1 + H * W, C]``; ``size`` is ``(H, W)``."""
        return self._projected(self.product(self.qkv(x), size=size, convs=[*self.crpe.conv_list]))
