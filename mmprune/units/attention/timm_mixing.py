"""Attentions of timm that are more than a softmax over products of tokens."""
from typing import Any

from torch import Tensor

from .products import CovarianceProduct, GatedPositionProduct, TalkingProduct
from .taking_over import register_attention
from .timm import PackedAttention


@register_attention('timm.models.cait.TalkingHeadAttn')
class TimmTalkingHeads(PackedAttention):
    """Of CaiT: two layers mix the heads."""

    def begin(self) -> None:
        """Write the sizes down."""
        dims = self.proj.weight.size(1) // self.num_heads
        self.product = TalkingProduct(self.num_heads, dims, dims, self.scale, dropout=self.attn_drop.p)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        return self._projected(self.product(self.qkv(x), before=self.proj_l, behind=self.proj_w))


@register_attention('timm.models.convit.GPSA')
class TimmGatedPosition(PackedAttention):
    """Of ConViT: weights of positions, blended in by a gate."""

    rel_indices: Any

    def begin(self) -> None:
        """Write the sizes down."""
        dims = self.proj.weight.size(1) // self.num_heads
        self.product = GatedPositionProduct(self.num_heads, dims, dims, self.scale, dropout=self.attn_drop.p)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]``, which are the places of a square image."""
        tokens = x.size(1)
        if self.rel_indices is None or self.rel_indices.size(1) != tokens:
            self.rel_indices = self.get_rel_indices(tokens)
        position = self.pos_proj(self.rel_indices.expand(len(x), -1, -1, -1)).permute(0, 3, 1, 2)
        gate = self.gating_param.view(-1, 1, 1)
        return self._projected(self.product(self.qk(x), None, self.v(x), position=position, gate=gate))


class CovarianceAttention(PackedAttention):
    """Over channels instead of tokens."""

    def begin(self) -> None:
        """Write the sizes down."""
        heads = getattr(self, 'num_heads', None) or self.groups
        dropout = getattr(self, 'attn_drop', None)
        self.product = CovarianceProduct(heads, self.proj.weight.size(1) // heads, dropout.p if dropout else 0.0,
                                         values_first=type(self).__bases__[1].__name__ == 'ChannelAttention')


@register_attention('timm.models.xcit.XCA', 'timm.models.edgenext.CrossCovarianceAttn')
class TimmCrossCovariance(CovarianceAttention):
    """Of XCiT and EdgeNeXt: queries and keys of unit length over the tokens, with a temperature of the head."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of channels of ``Tensor[B, N, C]`` to one another."""
        return self._projected(self.product(self.qkv(x), temperature=self.temperature))


@register_attention('timm.models.davit.ChannelAttention', 'timm.models.davit.ChannelAttentionV2')
class TimmChannelAttention(CovarianceAttention):
    """Of DaViT."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of channels of ``Tensor[B, N, C]`` to one another."""
        if hasattr(self, 'dynamic_scale'):
            scale = x.size(1) ** -0.5 if self.dynamic_scale else self.head_dim ** -0.5
        else:
            scale = self.scale
        return self._projected(self.product(self.qkv(x), scale=scale))
