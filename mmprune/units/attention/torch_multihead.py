"""``nn.MultiheadAttention`` of torch, and the encoder around it."""
from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from .axes import split_axis
from .parameter_linear import ParameterLinear
from .product import AttentionProduct
from .taking_over import PrunableAttention, register_attention


@register_attention('torch.MultiheadAttention')
class TorchMultihead(PrunableAttention):
    """Attention of queries to keys; one parameter holds the rows of the three projections, or each has its own."""

    adds = ('product', 'in_proj_rows', 'q_proj_rows', 'k_proj_rows', 'v_proj_rows')
    in_proj_weight: Any
    in_proj_bias: Any
    #: What makes encoder layers of torch leave our forward out, and read the parameters by themselves.
    _qkv_same_embed_dim = property(lambda self: False)

    def unfit(self) -> Optional[str]:
        """Return what is put beside the keys and values, which is not followed."""
        return 'it adds tokens of its own to the keys' if self.bias_k is not None or self.add_zero_attn else None

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = AttentionProduct(self.num_heads, self.head_dim, self.head_dim, dropout=self.dropout)
        for name in ('in_proj', ) if self.in_proj_weight is not None else ('q_proj', 'k_proj', 'v_proj'):
            self.add_module(f'{name}_rows', ParameterLinear())

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Optional[Tensor] = None,
                need_weights: bool = True, attn_mask: Optional[Tensor] = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> Tuple[Tensor, Optional[Tensor]]:
        """Return the attention of queries to keys, and its weights where they are asked for; as torch does."""
        batched, same = query.dim() == 3, query is key and key is value
        tokens = [query] if same else [query, key, value]
        if not batched:
            tokens = [x.unsqueeze(0) for x in tokens]
            key_padding_mask = key_padding_mask if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            tokens = [x.transpose(0, 1) for x in tokens]
        bias, mask = _added_to_products(attn_mask, key_padding_mask, len(tokens[0]), tokens[0].dtype)
        found: Any = self.product(*self._projected(tokens), bias=bias, mask=mask, need_weights=need_weights,
                                  causal=is_causal and attn_mask is None)
        out, weights = found if need_weights else (found, None)
        out = self.out_proj(out)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out.squeeze(0), weights if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, tokens: List[Tensor]) -> List[Tensor]:
        """Return queries, keys and values of tokens ``Tensor[B, N, C]``, side by side where all are of the same."""
        sizes = self.product.sizes
        first = [0, sizes[0], sizes[0] + sizes[1], sum(sizes)]
        if self.in_proj_weight is None:
            x = tokens * 3 if len(tokens) == 1 else tokens
            return [getattr(self, f'{name}_rows')(own, getattr(self, f'{name}_weight'), self.in_proj_bias, 0, size,
                                                  offset=offset)
                    for name, own, size, offset in zip(('q_proj', 'k_proj', 'v_proj'), x, sizes, first)]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if len(tokens) == 1:
            return [self.in_proj_rows(tokens[0], weight, bias, 0, first[3])]
        return [self.in_proj_rows(x, weight, bias, start, stop) for x, start, stop in zip(tokens, first, first[1:])]


def _added_to_products(mask: Optional[Tensor], padding: Optional[Tensor], batch: int,
                       dtype: torch.dtype) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Return what is added to the products ``Tensor[B, heads, N, M]``: of each head, and the same of all heads.

    Args:
        mask (Tensor[N, M] or Tensor[B * heads, N, M], optional): Added; True where nothing is seen if it is bool.
        padding (Tensor[B, M], optional): The same of keys.
        batch (int): B.
        dtype (torch.dtype): Of the products.
    """
    padding = None if padding is None else _added(padding, dtype)[:, None, None, :]
    if mask is None:
        return None, padding
    mask = _added(mask, dtype)
    if mask.dim() == 3:
        return split_axis(mask, 0, (batch, -1)), padding
    return None, mask if padding is None else mask + padding


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float('-inf'))
    return mask.to(dtype)


@register_attention('torch.TransformerEncoder')
class TorchEncoder(PrunableAttention):
    """Runs its layers on whole batches; torch drops what is padded on the way, in a tensor that norms cannot take."""

    adds = ()

    def unfit(self) -> Optional[str]:
        """Return why torch's own forward does: it drops nothing."""
        drops = getattr(self, 'use_nested_tensor', self.enable_nested_tensor)
        return None if drops and not getattr(self.layers[0], 'norm_first', True) else 'it drops nothing'

    def forward(self, src: Tensor, mask: Optional[Tensor] = None, src_key_padding_mask: Optional[Tensor] = None,
                is_causal: Optional[bool] = None) -> Tensor:
        """Return what the layers make of tokens."""
        out = src
        for layer in self.layers:
            out = layer(out, src_mask=mask, is_causal=bool(is_causal), src_key_padding_mask=src_key_padding_mask)
        if mask is None and src_key_padding_mask is not None and self._drops_padding(src, src_key_padding_mask):
            out = out.masked_fill(_hidden(src_key_padding_mask)[..., None], 0.0)
        return out if self.norm is None else self.norm(out)

    def _drops_padding(self, src: Tensor, padding: Tensor) -> bool:
        """Tell whether torch would write zeros where an image, or a sentence, is padded."""
        if torch.is_grad_enabled() or self.training or padding.dim() != 2 or has_torch_function((src, )):
            return False
        return bool(((~_hidden(padding)).int().diff(dim=1) <= 0).all())


def _hidden(padding: Tensor) -> Tensor:
    """Return where a mask of keys, bool or added, hides them."""
    return padding if padding.dtype == torch.bool else padding != 0
