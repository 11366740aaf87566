"""Attentions of transformers, by class name, whose keys and values come from fewer places than the queries."""
from typing import Any, Optional, Tuple

from torch import Tensor

from .huggingface import Projected, Result
from .taking_over import register_attention

Pair = Tuple[Any, ...]


def as_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return tokens ``Tensor[B, height * width, C]`` as a feature map ``Tensor[B, C, height, width]``."""
    return tokens.transpose(1, 2).unflatten(2, (height, width))


def as_tokens(feature_map: Tensor) -> Tensor:
    """Return a feature map ``Tensor[B, C, H, W]`` as tokens ``Tensor[B, H * W, C]``."""
    return feature_map.flatten(2).transpose(1, 2)


@register_attention('transformers.SegformerAttention')
class SegformerAttention(Projected):
    """Of SegFormer."""

    sequence_reduction: Any

    def forward(self, hidden_states: Tensor, height: int, width: int, attention_mask: Optional[Tensor] = None,
                **kwargs: Any) -> Result:
        """Return what tokens ``Tensor[B, height * width, C]`` see of one another, and the attention weights or None."""
        others = hidden_states
        if self.sequence_reduction_ratio > 1:
            reduction = self.sequence_reduction
            others = reduction.layer_norm(as_tokens(reduction.sequence_reduction(as_map(others, height, width))))
        out, weights = self.attend(hidden_states, others, mask=attention_mask, is_causal=kwargs.get('is_causal'))
        return self.output(out), weights


@register_attention('transformers.PvtEfficientSelfAttention', 'transformers.GLPNEfficientSelfAttention')
class PvtAttention(Projected):
    """Of PVT and GLPN; the output projection stands in a module beside it."""

    layer_norm: Any

    def forward(self, hidden_states: Tensor, height: int, width: int, output_attentions: bool = False) -> Pair:
        """Return what the heads read of tokens ``Tensor[B, height * width, C]``; the weights where asked."""
        others = hidden_states
        reduction = getattr(self, 'sequence_reduction', None) or getattr(self, 'sr', None)
        if reduction is not None:
            others = self.layer_norm(as_tokens(reduction(as_map(others, height, width))))
        found = self.attend(hidden_states, others, need_weights=output_attentions)
        return found if output_attentions else found[:1]


@register_attention('transformers.PvtV2SelfAttention')
class PvtV2Attention(Projected):
    """Of PVT v2, also with keys and values of 7 x 7 pooled places."""

    layer_norm: Any
    pool: Any
    act: Any
    proj: Any
    proj_drop: Any
    spatial_reduction: Any

    def forward(self, hidden_states: Tensor, height: int, width: int, output_attentions: bool = False) -> Pair:
        """Return what tokens ``Tensor[B, height * width, C]`` see of one another; the weights where asked."""
        others = hidden_states
        if self.linear_attention:
            pooled = self.spatial_reduction(self.pool(as_map(others, height, width)))
            others = self.act(self.layer_norm(as_tokens(pooled)))
        elif self.spatial_reduction_ratio > 1:
            others = self.layer_norm(as_tokens(self.spatial_reduction(as_map(others, height, width))))
        out, weights = self.attend(hidden_states, others, need_weights=output_attentions)
        out = self.proj_drop(self.proj(out))
        return (out, weights) if output_attentions else (out, )
