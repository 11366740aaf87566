"""Attentions of transformers, by class name, with biases or temperatures of their heads."""
import math
from typing import Any, Optional, Tuple

from torch import Tensor

from .huggingface import EAGER, Projected, kernel_of, layers_of
from .products import CosineProduct
from .taking_over import register_attention

Pair = Tuple[Any, ...]


@register_attention('transformers.Data2VecVisionSelfAttention', 'transformers.Data2VecVisionSdpaSelfAttention')
class Data2VecAttention(Projected):
    """Of Data2Vec, with a bias of its own and one for all layers; the output projection stands in another module."""

    relative_position_bias: Any

    def forward(self, hidden_states: Tensor, output_attentions: bool = False,
                relative_position_bias: Optional[Tensor] = None, interpolate_pos_encoding: bool = False,
                resolution: Optional[Tuple[int, int]] = None) -> Pair:
        """Return what the heads read of tokens ``Tensor[B, N, C]``; the weights or None behind it."""
        bias = relative_position_bias
        if self.has_relative_position_bias and resolution is not None:
            patches = tuple(side // self.config.patch_size for side in resolution)
            own = self.relative_position_bias(patches, interpolate_pos_encoding, dim_size=hidden_states.size(1))
            bias = own if bias is None else own + bias
        out, weights = self.attend(hidden_states, bias=bias)
        return (out, ) if kernel_of(self) == EAGER and not output_attentions else (out, weights)


@register_attention('transformers.Swinv2SelfAttention', 'transformers.Swin2SRSelfAttention')
class SwinV2Attention(Projected):
    """Of windows: cosine attention, and a bias that is computed from distances."""

    continuous_position_bias_mlp: Any
    logit_scale: Tensor
    relative_coords_table: Tensor
    relative_position_index: Tensor

    def begin(self) -> None:
        """Write the sizes down."""
        q, _, v = (layer.out_features for layer in layers_of(self))
        dims = self._dims()
        self.product = CosineProduct(q // dims, dims, v * dims // q, self._dropout())

    def forward(self, hidden_states: Tensor, attention_mask: Optional[Tensor] = None,
                output_attentions: Optional[bool] = False) -> Pair:
        """Return what the heads read of tokens of windows ``Tensor[B * windows, N, C]``.

        Args:
            hidden_states (Tensor): The tokens.
            attention_mask (Tensor[windows, N, N], optional): Added twice, where windows were shifted.
            output_attentions (bool): Return the attention weights behind it.
        """
        tokens = hidden_states.size(1)
        if attention_mask is not None:
            attention_mask = 2 * attention_mask[:, None].repeat(len(hidden_states) // len(attention_mask), 1, 1, 1)
        bias = self.continuous_position_bias_mlp(self.relative_coords_table).flatten(0, -2)
        bias = bias[self.relative_position_index.view(-1)].unflatten(0, (tokens, tokens)).permute(2, 0, 1)
        q, k, v = (layer(hidden_states) for layer in layers_of(self))
        found = self.product(q, k, v, 16 * bias.sigmoid().unsqueeze(0), attention_mask,
                             temperature=self.logit_scale.clamp(max=math.log(100)).exp(),
                             need_weights=bool(output_attentions))
        return found if output_attentions else (found, )
