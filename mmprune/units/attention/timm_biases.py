"""Attentions of timm's LeViT and its relatives: packed head by head, with a bias for the distance of two places."""
from typing import Any

from torch import Tensor, nn

from .product import AttentionProduct
from .products import TalkingProduct
from .taking_over import PrunableAttention, register_attention


def bias_of_distance(attention: Any) -> Tensor:
    """Return the bias ``Tensor[heads, N, M]``; the module's own cache of it does not follow a cut."""
    return attention.attention_biases[:, attention.attention_bias_idxs]  # type: ignore[no-any-return]


class DistanceAttention(PrunableAttention):
    """Queries and keys of one width, values of another."""

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.key_dim, self.val_dim, self.scale, by_head=True)

    def _tokens(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


@register_attention('timm.models.levit.Attention', 'timm.models.efficientformer.Attention',
                    'timm.models.tiny_vit.Attention')
class TimmDistanceAttention(DistanceAttention):
    """Of LeViT, EfficientFormer and TinyViT."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]``, or places of ``Tensor[B, C, H, W]``, to one another."""
        norm = getattr(self, 'norm', None)
        packed = self._tokens(self.qkv(x if norm is None else norm(x)))
        out = self.product(packed, bias=bias_of_distance(self))
        if x.dim() == 4:
            out = out.transpose(1, 2).unflatten(-1, x.shape[-2:])
        return self.proj(out)  # type: ignore[no-any-return]


@register_attention('timm.models.levit.AttentionDownsample')
class TimmDistanceDownsample(DistanceAttention):
    """Of LeViT between two stages: queries of fewer tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of every other token, or place, to all."""
        q = self.q(x)
        out = self.product(self._tokens(q), self._tokens(self.kv(x)), bias=bias_of_distance(self))
        if x.dim() == 4:
            out = out.transpose(1, 2).unflatten(-1, q.shape[-2:])
        return self.proj(out)  # type: ignore[no-any-return]


class LocalValueAttention(DistanceAttention):
    """Of EfficientFormer V2: a depthwise convolution of the values is added to what the heads read."""

    def _read(self, q: Tensor, k: Tensor, v: Tensor, **mixers: nn.Module) -> Tensor:
        out = self.product(*(self._tokens(x) for x in (q, k, v)), bias=bias_of_distance(self), **mixers)
        local = self.v_local(v)
        return out.transpose(1, 2).unflatten(-1, local.shape[-2:]) + local


@register_attention('timm.models.efficientformer_v2.Attention2d')
class TimmTalkingAttention(LocalValueAttention):
    """With layers that mix the heads."""

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = TalkingProduct(self.num_heads, self.key_dim, self.d, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of places of ``Tensor[B, C, H, W]`` to one another."""
        x = x if self.stride_conv is None else self.stride_conv(x)
        out = self._read(self.q(x), self.k(x), self.v(x), before=self.talking_head1, behind=self.talking_head2)
        return self.proj(self.act(out if self.upsample is None else self.upsample(out)))  # type: ignore[no-any-return]


@register_attention('timm.models.efficientformer_v2.Attention2dDownsample')
class TimmLocalValueDownsample(LocalValueAttention):
    """Between two stages: queries of fewer places."""

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.key_dim, self.d, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention of every other place of ``Tensor[B, C, H, W]`` to all."""
        return self.proj(self.act(self._read(self.q(x), self.k(x), self.v(x))))  # type: ignore[no-any-return]
