"""Attentions of timm with queries and keys of different tokens: fewer keys, or a class token alone."""
from typing import Any, List, Optional

from torch import Tensor

from .product import AttentionProduct
from .taking_over import PrunableAttention, register_attention


class UnpackedAttention(PrunableAttention):
    """Layers of its own for queries, and for keys and values."""

    def begin(self) -> None:
        """Write the sizes down."""
        heads = self.num_heads
        dims = self.proj.weight.size(1) // heads
        self.product = AttentionProduct(heads, dims, dims, self.scale, dropout=self.attn_drop.p)

    def _projected(self, x: Tensor) -> Tensor:
        return self.proj_drop(self.proj(x))  # type: ignore[no-any-return]


def map_of(x: Tensor, size: Any) -> Tensor:
    """Return the feature map ``Tensor[B, C, H, W]`` of tokens ``Tensor[B, H * W, C]``."""
    return x.transpose(1, 2).unflatten(-1, tuple(size))


@register_attention('timm.models.pvt_v2.Attention', 'timm.models.twins.GlobalSubSampleAttn')
class TimmReducedAttention(UnpackedAttention):
    """Of PVT and Twins: keys and values of a smaller feature map."""

    def forward(self, x: Tensor, size: List[int]) -> Tensor:
        """Return the attention of tokens ``Tensor[B, H * W, C]``; ``size`` is ``(H, W)``."""
        q = self.q(x)
        if getattr(self, 'pool', None) is not None:
            x = self.act(self.norm(self.sr(self.pool(map_of(x, size))).flatten(2).transpose(1, 2)))
        elif self.sr is not None:
            x = self.norm(self.sr(map_of(x, size)).flatten(2).transpose(1, 2))
        return self._projected(self.product(q, self.kv(x)))


@register_attention('timm.models.cait.ClassAttn')
class TimmClassAttention(UnpackedAttention):
    """Of CaiT and XCiT: of the class token to all tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what the first token of ``Tensor[B, N, C]`` reads, ``Tensor[B, 1, C]``."""
        return self._projected(self.product(self.q(x[:, :1]), self.k(x), self.v(x)))


@register_attention('timm.models.volo.ClassAttention')
class TimmPackedClassAttention(UnpackedAttention):
    """Of VOLO: of the class token to all tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what the first token of ``Tensor[B, N, C]`` reads, ``Tensor[B, 1, C]``."""
        return self._projected(self.product(self.q(x[:, :1]), self.kv(x)))


@register_attention('timm.models.crossvit.CrossAttention')
class TimmCrossAttention(UnpackedAttention):
    """Of CrossViT: of the class token of one branch to the tokens of the other."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what the first token of ``Tensor[B, N, C]`` reads, ``Tensor[B, 1, C]``."""
        return self._projected(self.product(self.wq(x[:, :1]), self.wk(x), self.wv(x)))


@register_attention('timm.models.tnt.Attention')
class TimmNestedAttention(UnpackedAttention):
    """Of TNT: queries and keys of one layer, values of another, of another width."""

    def begin(self) -> None:
        """Write the sizes down."""
        heads = self.num_heads
        self.product = AttentionProduct(heads, self.head_dim, self.v.weight.size(0) // heads, self.scale,
                                        dropout=self.attn_drop.p)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        return self._projected(self.product(self.qk(x), None, self.v(x)))


@register_attention('timm.models.nextvit.EfficientAttention')
class TimmPooledAttention(UnpackedAttention):
    """Of Next-ViT: keys and values of averages of neighbouring tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to their averages."""
        q = self.q(x)
        if self.sr is not None:
            x = self.norm(self.sr(x.transpose(1, 2))).transpose(1, 2)
        return self._projected(self.product(q, self.k(x), self.v(x)))


@register_attention('timm.layers.attention_pool.AttentionPoolLatent')
class TimmLatentPool(UnpackedAttention):
    """Pooling by the attention of a few learnt tokens to those of the image."""

    def unfit(self) -> Optional[str]:
        """Return what is not followed."""
        return None if hasattr(self.q, 'weight') else 'its queries are parameters, not those of a layer'

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.head_dim, self.head_dim, self.scale)

    def forward(self, x: Tensor, attn_mask: Optional[Tensor] = None) -> Tensor:
        """Return what the learnt tokens read of ``Tensor[B, N, C]``, one or their mean where the module says so."""
        if self.pos_embed is not None:
            x = x + self.pos_embed.unsqueeze(0).to(x.dtype)
        q = self.q(self.latent).expand(len(x), -1, -1)
        x = self._projected(self.product(q, self.kv(x), mask=attn_mask, q_norm=self.q_norm, k_norm=self.k_norm))
        if self.mlp is not None:
            x = x + self.mlp(self.norm(x))
        return x[:, 0] if self.pool == 'token' else x.mean(1) if self.pool == 'avg' else x


@register_attention('timm.layers.attention2d.MultiQueryAttention2d')
class TimmMultiQueryAttention(PrunableAttention):
    """Of MobileNetV4: on feature maps, with one head of keys and values that all heads read."""

    def unfit(self) -> Optional[str]:
        """Return what is not followed."""
        return 'it is written with einsum' if self.einsum else None

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.key_dim, self.value_dim, self.scale, 1, self.attn_drop.p)

    def forward(self, x: Tensor, attn_mask: Optional[Tensor] = None) -> Tensor:
        """Return the attention of places of ``Tensor[B, C, H, W]`` to fewer ones."""
        q = self.query(x)
        out = self.product(*(one.flatten(2).transpose(1, 2) for one in (q, self.key(x), self.value(x))), mask=attn_mask)
        return self.output(out.transpose(1, 2).unflatten(-1, q.shape[-2:]))  # type: ignore[no-any-return]
