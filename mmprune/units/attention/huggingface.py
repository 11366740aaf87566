"""Attentions of transformers, by class name: a layer each for queries, keys and values.

``config._attn_implementation`` says there whether attention weights are computed: with ``eager`` they are handed on,
with ``sdpa`` there are none. Both are kept; a model with another kernel keeps its own attention.
"""
from typing import Any, List, Optional, Tuple

from torch import Tensor, nn

from .product import AttentionProduct
from .taking_over import PrunableAttention, register_attention

#: What layers for queries, keys and values are called, and the one that reads the heads.
LAYERS = (('q_proj', 'k_proj', 'v_proj'), ('query', 'key', 'value'),
          ('projection_query', 'projection_key', 'projection_value'))
OUTPUTS = ('o_proj', 'out_proj')
#: What implementations of attention do that are known here.
EAGER, SDPA = 'eager', 'sdpa'
Result = Tuple[Tensor, Optional[Tensor]]


def layers_of(module: nn.Module) -> List[Any]:
    """Return the layers for queries, keys and values of an attention; empty without."""
    return next(([getattr(module, name) for name in names] for names in LAYERS if hasattr(module, names[0])), [])


def kernel_of(module: nn.Module) -> Optional[str]:
    """Return what computes the attention of a module, None where that is written in its forward."""
    return getattr(getattr(module, 'config', None), '_attn_implementation', None)


class Projected(PrunableAttention):
    """Of three linear layers, for queries, keys and values."""

    product: Any
    config: Any
    is_causal = False
    #: Whether queries and keys are turned by the positions of their tokens.
    rotary = False

    def unfit(self) -> Optional[str]:
        """Return what is not done here: other layers than linear ones, other kernels."""
        if not layers_of(self) or not all(type(layer) is nn.Linear for layer in layers_of(self)):
            return 'it has no linear layer each for queries, keys and values'
        kernel = kernel_of(self)
        return None if kernel in (None, EAGER, SDPA) else f'its attention is computed by {kernel}'

    def begin(self) -> None:
        """Write the sizes down."""
        dims = self._dims()
        q, k, v = (layer.out_features for layer in layers_of(self))
        self.product = AttentionProduct(q // dims, dims, v * dims // k, self._scale(dims), k // dims, self._dropout(),
                                        rotary=self.rotary)

    def _dims(self) -> int:
        """Return the channels of a head of the dense module."""
        return int(getattr(self, 'head_dim', None) or self.attention_head_size)

    def _scale(self, dims: int) -> float:
        """Return what the products of queries and keys are multiplied by."""
        return float(getattr(self, 'scaling', None) or getattr(self, 'scale', None) or dims ** -0.5)

    def _dropout(self) -> float:
        """Return the share of the attention weights that training drops."""
        found = next((getattr(self, name) for name in ('attention_dropout', 'dropout_prob', 'dropout', 'attn_drop')
                      if hasattr(self, name)), 0.0)
        return float(getattr(found, 'p', found))

    def attend(self, tokens: Tensor, others: Optional[Tensor] = None, values: Optional[Tensor] = None,
               mask: Optional[Tensor] = None, bias: Optional[Tensor] = None, need_weights: bool = False,
               is_causal: Optional[bool] = None, **more: Any) -> Result:
        """Return what the heads read, ``Tensor[B, N, channels]``, and the attention weights or None.

        Args:
            tokens (Tensor[B, N, C]): What queries are made of.
            others (Tensor[B, M, C], optional): What keys and values are made of; by default the same.
            values (Tensor[B, M, C], optional): What values are made of, where these are others than those of the keys.
            mask (Tensor, optional): Added to the products, or what may be seen; with a head axis it is a bias.
            bias (Tensor, optional): Of a head axis.
            need_weights (bool): Where no kernel of the config says it.
            is_causal (bool, optional): By default as the module says.
            more: Of the product.
        """
        others = tokens if others is None else others
        q, k, v = layers_of(self)
        kernel = kernel_of(self)
        causal = self.is_causal if is_causal is None else is_causal
        causal = causal and mask is None and kernel == SDPA and tokens.size(1) > 1
        if mask is not None and bias is None and mask.size(-3) > 1:
            mask, bias = None, mask
        need_weights = need_weights or kernel == EAGER
        out = self.product(q(tokens), k(others), v(others if values is None else values), bias, mask, causal=causal,
                           need_weights=need_weights, **more)
        return out if need_weights else (out, None)

    def output(self, out: Tensor) -> Tensor:
        """Return what the output projection makes of what the heads read."""
        layer = next(getattr(self, name) for name in OUTPUTS if hasattr(self, name))
        return layer(out)  # type: ignore[no-any-return]


@register_attention(*(f'transformers.{name}Attention' for name in (
    'ViT', 'DeiT', 'Dinov2', 'Dinov2WithRegisters', 'ViTMAE', 'Beit', 'IJepa', 'ViTMSN', 'AST', 'Vivit', 'Pixio',
    'CLIP', 'AltCLIP', 'CLIPSeg', 'ChineseCLIPVision', 'MetaClip2', 'XCLIP', 'Siglip', 'Siglip2', 'Aimv2',
    'Idefics2Vision', 'Idefics3Vision', 'SmolVLMVision', 'Ovis2Vision', 'Eomt')))
class VisionAttention(Projected):
    """Of vision transformers, with the output projection."""

    def forward(self, hidden_states: Tensor, attention_mask: Optional[Tensor] = None, **kwargs: Any) -> Result:
        """Return what tokens ``Tensor[B, N, C]`` see of one another, and the attention weights or None."""
        out, weights = self.attend(hidden_states, mask=attention_mask, is_causal=kwargs.get('is_causal'))
        return self.output(out), weights


@register_attention(*(f'transformers.{name}SelfAttention' for name in ('Yolos', 'DPT', 'VitPoseBackbone')))
class HeadsAttention(Projected):
    """Of vision transformers whose output projection stands in a module beside it."""

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Result:
        """Return what the heads read of tokens ``Tensor[B, N, C]``, and the attention weights or None."""
        return self.attend(hidden_states, is_causal=False)


@register_attention('transformers.MobileViTSelfAttention')
class MobileViTAttention(Projected):
    """Of MobileViT: no attention weights, no projection."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return what the heads read of tokens ``Tensor[B, N, C]``."""
        return self.attend(hidden_states)[0]


@register_attention('transformers.SwinAttention')
class SwinAttention(Projected):
    """Of windows, with a bias for each head and pair of positions."""

    relative_position_bias: Any

    def forward(self, hidden_states: Tensor, attention_mask: Optional[Tensor] = None, **kwargs: Any) -> Result:
        """Return what tokens of windows ``Tensor[B * windows, N, C]`` see of one another, and the attention weights.

        Args:
            hidden_states (Tensor): The tokens.
            attention_mask (Tensor[windows, N, N], optional): Added, where windows were shifted.
            kwargs: Ignored.
        """
        if attention_mask is not None:
            images = hidden_states.size(0) // attention_mask.size(0)
            attention_mask = attention_mask[:, None].repeat(images, 1, 1, 1)
        out, weights = self.attend(hidden_states, mask=attention_mask, bias=self.relative_position_bias())
        return self.output(out), weights


@register_attention('transformers.DINOv3ViTAttention', 'transformers.EomtDinov3Attention')
class DINOv3Attention(Projected):
    """Of DINOv3: rotary positions of the patches, none of the tokens before them."""

    rotary = True

    def forward(self, hidden_states: Tensor, attention_mask: Optional[Tensor] = None,
                position_embeddings: Optional[Tuple[Tensor, Tensor]] = None, **kwargs: Any) -> Result:
        """Return what tokens ``Tensor[B, N, C]`` see of one another, and the attention weights or None."""
        out, weights = self.attend(hidden_states, mask=attention_mask, angles=position_embeddings,
                                   is_causal=kwargs.get('is_causal'))
        return self.output(out), weights


@register_attention(*(f'transformers.{name}SelfAttention' for name in (
    'Detr', 'MaskFormerDetr', 'ConditionalDetr', 'DeformableDetr', 'RTDetr', 'RTDetrV2', 'DFine')))
class DetrSelfAttention(Projected):
    """Of detectors: queries and keys are made of tokens plus positions, values of tokens alone."""

    def forward(self, hidden_states: Tensor, attention_mask: Optional[Tensor] = None,
                position_embeddings: Optional[Tensor] = None, **kwargs: Any) -> Result:
        """Return what tokens ``Tensor[B, N, C]`` see of one another, and the attention weights or None."""
        placed = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        out, weights = self.attend(placed, values=hidden_states, mask=attention_mask,
                                   is_causal=kwargs.get('is_causal'))
        return self.output(out), weights


@register_attention('transformers.DetrCrossAttention', 'transformers.MaskFormerDetrCrossAttention')
class DetrCrossAttention(Projected):
    """Of detectors: queries of objects read an image."""

    def forward(self, hidden_states: Tensor, key_value_states: Tensor, attention_mask: Optional[Tensor] = None,
                position_embeddings: Optional[Tensor] = None, encoder_position_embeddings: Optional[Tensor] = None,
                **kwargs: Any) -> Result:
        """Return what ``Tensor[B, N, C]`` see of ``Tensor[B, M, C]``, and the attention weights or None."""
        queries = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        keys = key_value_states if encoder_position_embeddings is None else (
            key_value_states + encoder_position_embeddings)
        out, weights = self.attend(queries, keys, key_value_states, mask=attention_mask,
                                   is_causal=kwargs.get('is_causal'))
        return self.output(out), weights
