"""The two products of an attention: what is between its projections, with the sizes of heads written down."""
import math
from typing import List, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: What the units of an attention are called.
HEADS, QUERY_KEY, VALUE = 'heads', 'qk', 'v'


class QueryScale(nn.Module):
    """Multiplies each query channel by a number of its own, the scale of the attention.

    What is zero here is gone from the products with the keys, after whatever norm the queries have: this is where
    a head's query-key dimensions are masked and scored. The numbers are no part of a checkpoint.

    Args:
        channels (int): Query channels, of all heads.
        scale (float): The scale, which a cut does not change.

    Attributes:
        weight (Tensor[channels]): A buffer that is not saved.
    """

    weight: Tensor

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.register_buffer('weight', torch.full((channels, ), scale), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Scale queries ``Tensor[..., channels]``."""
        return input * self.weight.to(input.dtype)


class AttentionProduct(nn.Module):
    """``softmax(scale q k^T + bias) v`` for all heads, from projected tokens to what the output projection reads.

    Args:
        heads (int): Heads of the queries.
        qk_dims (int): Channels of a head's queries and keys.
        v_dims (int): Channels of a head's values.
        scale (float, optional): By default ``qk_dims ** -0.5``.
        kv_heads (int, optional): Heads of keys and values, each read by as many heads of queries; by default ``heads``.
        dropout (float): Share of the attention weights that training drops.

    Attributes:
        heads, kv_heads, qk_dims, v_dims (int): The present sizes; a cut writes them.
        query (QueryScale): Of the queries.
    """

    def __init__(self, heads: int, qk_dims: int, v_dims: int, scale: Optional[float] = None,
                 kv_heads: Optional[int] = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.qk_dims, self.v_dims = qk_dims, v_dims
        self.query = QueryScale(heads * qk_dims, 1 / math.sqrt(qk_dims) if scale is None else scale)
        self.dropout = dropout

    @property
    def sizes(self) -> List[int]:
        """Channels of the queries, of the keys and of the values, of all heads."""
        return [self.heads * self.qk_dims, self.kv_heads * self.qk_dims, self.kv_heads * self.v_dims]

    def forward(self, q: Tensor, k: Optional[Tensor] = None, v: Optional[Tensor] = None, bias: Optional[Tensor] = None,
                mask: Optional[Tensor] = None, q_norm: Optional[nn.Module] = None,
                k_norm: Optional[nn.Module] = None, causal: bool = False,
                need_weights: bool = False) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Return what the heads read, side by side.

        Args:
            q (Tensor[B, N, heads * qk_dims]): Queries; alone, with keys and values behind them on the last axis.
            k (Tensor[B, M, kv_heads * qk_dims], optional): Keys.
            v (Tensor[B, M, kv_heads * v_dims], optional): Values.
            bias (Tensor, optional): Added to the products; of a shape like ``[B, heads, N, M]``, its head axis third
                from the end.
            mask (Tensor, optional): The same for all heads: added, or what may be seen where it is bool.
            q_norm (nn.Module, optional): Norm of queries over the channels of a head.
            k_norm (nn.Module, optional): The same of keys.
            causal (bool): A token sees those before it only.
            need_weights (bool): Whether the attention weights are returned, too.

        Returns:
            Tensor[B, N, heads * v_dims]: In the order of the heads; with the weights ``Tensor[B, heads, N, M]`` as the
            second of two.
        """
        if k is None or v is None:
            q, k, v = q.split(self.sizes, dim=-1)
        batch, tokens = q.shape[:2]
        if q_norm is not None:
            q = q_norm(q.unflatten(-1, (self.heads, self.qk_dims))).flatten(-2)
        k = k.unflatten(-1, (self.kv_heads, self.qk_dims))
        if k_norm is not None:
            k = k_norm(k)
        q = self.query(q).unflatten(-1, (self.heads, self.qk_dims)).transpose(1, 2)
        k, v = k.transpose(1, 2), v.unflatten(-1, (self.kv_heads, self.v_dims)).transpose(1, 2)
        if self.kv_heads != self.heads:
            k, v = (x.repeat_interleave(self.heads // self.kv_heads, 1) for x in (k, v))
        added, dropout = _joined(bias, mask, q.dtype), self.dropout if self.training else 0.0
        if need_weights:
            weights = F.dropout(_weights(q, k, added, causal), dropout)
            out = weights @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, added, is_causal=causal, scale=1.0, dropout_p=dropout)
        out = out.transpose(1, 2).reshape(batch, tokens, self.heads * self.v_dims)
        return (out, weights) if need_weights else out


def _weights(q: Tensor, k: Tensor, added: Optional[Tensor], causal: bool) -> Tensor:
    """Return the softmax over the keys of what queries and keys have in common, ``Tensor[B, heads, N, M]``."""
    products = q @ k.transpose(-1, -2)
    if causal:
        products = products.masked_fill(torch.ones_like(products[0, 0], dtype=torch.bool).triu(1), float('-inf'))
    if added is not None:
        products = products.masked_fill(~added, float('-inf')) if added.dtype == torch.bool else products + added
    return products.softmax(-1, torch.promote_types(q.dtype, torch.float32)).to(q.dtype)


def _joined(bias: Optional[Tensor], mask: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
    """Return what is added to the products, None for nothing; of a mask alone, what it is."""
    if bias is None or mask is None:
        return mask if bias is None else bias.to(dtype)
    if mask.dtype == torch.bool:
        return bias.to(dtype).masked_fill(~mask, float('-inf'))
    return bias.to(dtype) + mask
