"""Attentions of timm, by class name."""
from typing import Any, Optional

from torch import Tensor, nn

from .product import AttentionProduct
from .taking_over import PrunableAttention, register_attention


@register_attention('timm.Attention')
class TimmAttention(PrunableAttention):
    """Of vision transformers: one layer for queries, keys and values, side by side."""

    qkv: Any
    proj: Any

    def unfit(self) -> Optional[str]:
        """Return what stands between the heads and the projection, which is not followed."""
        if not isinstance(getattr(self, 'qkv', None), nn.Linear) or not hasattr(self, 'head_dim'):
            return 'it has no single layer for queries, keys and values'
        if not isinstance(getattr(self, 'norm', None), (nn.Identity, type(None))):
            return 'it normalises over all heads before its projection'
        return None

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.head_dim, self.head_dim, self.scale,
                                        dropout=self.attn_drop.p)

    def forward(self, x: Tensor, attn_mask: Optional[Tensor] = None, is_causal: bool = False) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        product = self.product
        gate = self.gate(x).sigmoid() if getattr(self, 'gate', None) is not None else None
        out = product(self.qkv(x), mask=attn_mask, q_norm=self.q_norm, k_norm=self.k_norm, causal=is_causal)
        return self.proj_drop(self.proj(out if gate is None else out * gate))
