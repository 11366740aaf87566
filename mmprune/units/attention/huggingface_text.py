"""Attentions of the language models of transformers, by class name."""
from typing import Any, Optional, Tuple

from torch import Tensor

from .huggingface import Projected, Result
from .taking_over import register_attention


@register_attention(*(f'transformers.{name}Attention' for name in (
    'Llama', 'Qwen2', 'Mistral', 'Granite', 'Qwen2Moe', 'Qwen3', 'Qwen3Moe', 'Ministral')))
class RotaryAttention(Projected):
    """Of decoders: rotary positions, heads of keys and values that several heads of queries share, and a cache."""

    rotary = True
    layer_idx: int

    def forward(self, hidden_states: Tensor, position_embeddings: Optional[Tuple[Tensor, Tensor]] = None,
                attention_mask: Optional[Tensor] = None, cache: Any = None, **kwargs: Any) -> Result:
        """Return what tokens ``Tensor[B, N, C]`` see of one another, and the attention weights or None."""
        before = None if cache is None else lambda k, v: cache.update(k, v, self.layer_idx, kwargs=kwargs)
        out, weights = self.attend(hidden_states, mask=attention_mask, is_causal=kwargs.get('is_causal'),
                                   angles=position_embeddings, cache=before, q_norm=getattr(self, 'q_norm', None),
                                   k_norm=getattr(self, 'k_norm', None))
        return self.output(out), weights


@register_attention(*(f'transformers.{name}SelfAttention' for name in (
    'Bert', 'Roberta', 'Camembert', 'Electra', 'XLMRoberta', 'Ernie', 'Data2VecText')))
class BertAttention(Projected):
    """Of encoders and decoders whose output projection stands in a module beside it."""

    layer_idx: int

    def forward(self, hidden_states: Tensor, attention_mask: Optional[Tensor] = None, cache: Any = None,
                **kwargs: Any) -> Result:
        """Return what the heads read of tokens ``Tensor[B, N, C]``, and the attention weights or None."""
        own = getattr(cache, 'self_attention_cache', cache)
        before = None if cache is None else lambda k, v: own.update(k, v, self.layer_idx, kwargs=kwargs)
        return self.attend(hidden_states, mask=attention_mask, is_causal=kwargs.get('is_causal'), cache=before)
