"""Attentions of transformers, by class name, whose projections have batch norms or convolutions."""
from typing import Any, Optional

import torch
from torch import Tensor, nn

from .huggingface import Projected
from .huggingface_pyramid import as_map
from .product import AttentionProduct
from .taking_over import PrunableAttention, register_attention


@register_attention('transformers.CvtSelfAttention')
class CvtAttention(Projected):
    """Of CvT: convolutions before the projections; the output projection stands in a module beside it."""

    convolution_projection_query: Any
    convolution_projection_key: Any
    convolution_projection_value: Any

    def _dims(self) -> int:
        return int(self.embed_dim) // int(self.num_heads)

    def forward(self, hidden_state: Tensor, height: int, width: int) -> Tensor:
        """Return what the heads read of tokens ``Tensor[B, height * width, C]``, one more before them with a class."""
        first, hidden_state = hidden_state.split([int(self.with_cls_token), height * width], 1)
        x = as_map(hidden_state, height, width)
        q, k, v = (torch.cat((first, layer(x)), 1) if self.with_cls_token else layer(x) for layer in (
            self.convolution_projection_query, self.convolution_projection_key, self.convolution_projection_value))
        return self.attend(q, k, v)[0]


class LevitProjected(PrunableAttention):
    """Of LeViT: a batch norm behind each projection, a bias for each head and distance."""

    product: Any
    projection: Any
    activation: Any
    attention_biases: Tensor
    attention_bias_idxs: Tensor

    def unfit(self) -> Optional[str]:
        """Return nothing: the class has one form."""
        return None

    def begin(self) -> None:
        """Write the sizes down."""
        dims = int(self.key_dim)
        self.product = AttentionProduct(int(self.num_attention_heads), dims, int(self.attention_ratio) * dims,
                                        float(self.scale), by_head=True)

    def _read(self, *parts: Tensor) -> Tensor:
        out = self.product(*parts, bias=self.attention_biases[:, self.attention_bias_idxs].unsqueeze(0))
        return self.projection(self.activation(out))  # type: ignore[no-any-return]


@register_attention('transformers.LevitAttention')
class LevitAttention(LevitProjected):
    """Of the tokens of a stage."""

    queries_keys_values: nn.Module

    def forward(self, hidden_state: Tensor) -> Tensor:
        """Return what tokens ``Tensor[B, N, C]`` see of one another."""
        return self._read(self.queries_keys_values(hidden_state))


@register_attention('transformers.LevitAttentionSubsample')
class LevitSubsampledAttention(LevitProjected):
    """Between stages: every second token reads all of them."""

    queries: nn.Module
    queries_subsample: nn.Module
    keys_values: nn.Module

    def forward(self, hidden_state: Tensor) -> Tensor:
        """Return what a quarter of the tokens ``Tensor[B, N, C]`` sees of them."""
        return self._read(self.queries(self.queries_subsample(hidden_state)), self.keys_values(hidden_state))
