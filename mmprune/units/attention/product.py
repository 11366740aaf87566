"""The two products of an attention: what is between its projections, with the sizes of heads written down."""
import math
from typing import Callable, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .axes import split_axis
from .rotary import Rotary
from .versions import TAKES_A_SCALE

#: Takes keys and values of new tokens, ``Tensor[B, kv_heads, M, dims]``, and returns those of all tokens.
Cache = Callable[[Tensor, Tensor], Tuple[Tensor, Tensor]]


class QueryScale(nn.Module):
    """Multiplies queries by the scale of the attention, and each channel by a number of its own, which is 1.

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
        self.scale = scale
        self.register_buffer('weight', torch.ones(channels), persistent=False)

    @property
    def is_left_to_runtimes(self) -> bool:
        """Whether the TorchScript exporter writes a file, and no channel is masked: one number for all is left.

        Where it stands right before the product of queries and keys, runtimes compute it there: onnxruntime takes the
        scale into the product, which saves it an operator for each attention.
        """
        writes = torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()
        return writes and torch.equal(self.weight, torch.ones_like(self.weight))

    def forward(self, input: Tensor) -> Tensor:
        """Scale queries ``Tensor[..., channels]``."""
        return input * (self.weight.to(input.dtype) * self.scale)


class AttentionProduct(nn.Module):
    """``softmax(scale q k^T + bias) v`` for all heads, from projected tokens to what the output projection reads.

    Args:
        heads (int): Heads of the queries.
        qk_dims (int): Channels of a head's queries and keys.
        v_dims (int): Channels of a head's values.
        scale (float, optional): By default ``qk_dims ** -0.5``.
        kv_heads (int, optional): Heads of keys and values, each read by as many heads of queries; by default ``heads``.
        dropout (float): Share of the attention weights that training drops.
        by_head (bool): Packed projections have head after head, of each the queries, the keys and the values; by
            default the queries of all heads, then the keys, then the values.
        rotary (bool or str): Whether queries and keys are turned by the positions of their tokens; ``'neighbours'``
            where pairs lie side by side, see :class:`~mmprune.units.attention.rotary.Rotary`.

    Attributes:
        heads, kv_heads, qk_dims, v_dims (int): The present sizes; a cut writes them.
        query (QueryScale): Of the queries.
        of_heads (tuple[str]): Arguments of ``forward`` with a value for each head, on the third axis from the end.
        heads_stay, qk_stay (str, optional): Why the heads, or the query-key dimensions, cannot be pruned.
    """

    of_heads: Tuple[str, ...] = ('bias', )
    heads_stay: Optional[str] = None
    qk_stay: Optional[str] = None

    def __init__(self, heads: int, qk_dims: int, v_dims: int, scale: Optional[float] = None,
                 kv_heads: Optional[int] = None, dropout: float = 0.0, by_head: bool = False,
                 rotary: Union[bool, str] = False) -> None:
        super().__init__()
        self.by_head = by_head
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.qk_dims, self.v_dims = qk_dims, v_dims
        self.query = QueryScale(heads * qk_dims, 1 / math.sqrt(qk_dims) if scale is None else scale)
        self.dropout = dropout
        self.turned = nn.ModuleList([Rotary(own, qk_dims, rotary == 'neighbours') for own in (heads, self.kv_heads)]
                                    if rotary else [])

    @property
    def sizes(self) -> List[int]:
        """Channels of the queries, of the keys and of the values, of all heads."""
        return [self.heads * self.qk_dims, self.kv_heads * self.qk_dims, self.kv_heads * self.v_dims]

    def parts(self, q: Tensor, k: Optional[Tensor] = None, v: Optional[Tensor] = None) -> Tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values apart, of anything that has their channels last; see :meth:`forward`."""
        if k is None and v is None:
            q, k, v = self._unpacked(q, self.sizes)
        elif k is None:
            q, k = self._unpacked(q, self.sizes[:2])
        elif v is None:
            k, v = self._unpacked(k, self.sizes[1:])
        assert k is not None
        assert v is not None
        return q, k, v

    def arranged(self, out: Tensor) -> Tensor:
        """Return what the heads read, ``Tensor[..., heads * v_dims]``, in the order that the projection reads."""
        return out

    def apart(self, q: Tensor, k: Tensor, v: Tensor, cache: Optional[Cache] = None) -> List[Tensor]:
        """Return queries, keys and values ``Tensor[B, heads, tokens, dims]``, all for each head of queries."""
        q = split_axis(q, -1, (self.heads, self.qk_dims)).transpose(1, 2)
        k = split_axis(k, -1, (self.kv_heads, self.qk_dims)).transpose(1, 2)
        v = split_axis(v, -1, (self.kv_heads, self.v_dims)).transpose(1, 2)
        k, v = (k, v) if cache is None else cache(k, v)
        readers = self.heads // self.kv_heads
        if readers > 1:
            k, v = (x.repeat_interleave(readers, 1) for x in (k, v))
        return [q, k, v]

    def _unpacked(self, packed: Tensor, sizes: List[int]) -> Sequence[Tensor]:
        if not self.by_head:
            return packed.split(sizes, dim=-1)
        sizes = [size // self.heads for size in sizes]
        return [part.flatten(-2) for part in split_axis(packed, -1, (self.heads, sum(sizes))).split(sizes, dim=-1)]

    def forward(self, q: Tensor, k: Optional[Tensor] = None, v: Optional[Tensor] = None, bias: Optional[Tensor] = None,
                mask: Optional[Tensor] = None, q_norm: Optional[nn.Module] = None,
                k_norm: Optional[nn.Module] = None, causal: bool = False, need_weights: bool = False,
                angles: Optional[Tuple[Tensor, Tensor]] = None,
                cache: Optional[Cache] = None) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Return what the heads read, side by side.

        Args:
            q (Tensor[B, N, heads * qk_dims]): Queries; without keys, or without both others, with these behind them on
                the last axis.
            k (Tensor[B, M, kv_heads * qk_dims], optional): Keys; without values, with these behind them.
            v (Tensor[B, M, kv_heads * v_dims], optional): Values.
            bias (Tensor, optional): Added to the products; of a shape like ``[B, heads, N, M]``, its head axis third
                from the end.
            mask (Tensor, optional): The same for all heads: added, or what may be seen where it is bool.
            q_norm (nn.Module, optional): Norm of queries over the channels of a head.
            k_norm (nn.Module, optional): The same of keys.
            causal (bool): A token sees those before it only.
            need_weights (bool): Whether the attention weights are returned, too.
            angles (tuple[Tensor, Tensor], optional): Cosines and sines for ``rotary``, ``[..., N, qk_dims]`` of the
                dense model.
            cache (Callable, optional): Where keys and values of earlier tokens come from.

        Returns:
            Tensor[B, N, heads * v_dims]: In the order of the heads; with the weights ``Tensor[B, heads, N, M]`` as the
            second of two.
        """
        q, k, v = self.parts(q, k, v)
        q = self._placed(q, 0, self.heads, q_norm, angles)
        late = self.query.is_left_to_runtimes
        q, k, v = self.apart(q if late else self.query(q), self._placed(k, 1, self.kv_heads, k_norm, angles), v, cache)
        q = q * self.query.scale if late else q
        return self.read(q, k, v, joined(bias, mask, q.dtype), causal, need_weights)

    def read(self, q: Tensor, k: Tensor, v: Tensor, added: Optional[Tensor], causal: bool,
             need_weights: bool) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Return what heads read, from ``Tensor[B, heads, tokens, dims]``; see :meth:`forward`."""
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            weights = F.dropout(attention_weights(q, k, added, causal), dropout)
            return (weights @ v).transpose(1, 2).flatten(2), weights
        return attended(q, k, v, added, causal, dropout).transpose(1, 2).flatten(2)

    def _placed(self, x: Tensor, which: int, heads: int, norm: Optional[nn.Module],
                angles: Optional[Tuple[Tensor, Tensor]]) -> Tensor:
        """Return queries or keys after their norm, turned by the positions of their tokens."""
        if norm is not None:
            x = norm(split_axis(x, -1, (heads, self.qk_dims))).flatten(-2)
        return x if angles is None else self.turned[which](x, *angles, heads)  # type: ignore[no-any-return]


def attended(q: Tensor, k: Tensor, v: Tensor, added: Optional[Tensor], causal: bool, dropout: float) -> Tensor:
    """Return what scaled queries ``Tensor[B, heads, N, dims]`` read of values, in one function where there is one."""
    if TAKES_A_SCALE and not torch.onnx.is_in_onnx_export():
        return F.scaled_dot_product_attention(q, k, v, added, is_causal=causal, scale=1.0, dropout_p=dropout)
    # torch 2.0, and operations that every version of ONNX has
    return F.dropout(attention_weights(q, k, added, causal), dropout) @ v


def attention_weights(q: Tensor, k: Tensor, added: Optional[Tensor], causal: bool) -> Tensor:
    """Return the softmax over the keys of what queries and keys have in common, ``Tensor[B, heads, N, M]``."""
    products = q @ k.transpose(-1, -2)
    if causal:
        products = products.masked_fill(torch.ones_like(products[0, 0], dtype=torch.bool).triu(1), float('-inf'))
    if added is not None:
        products = products.masked_fill(~added, float('-inf')) if added.dtype == torch.bool else products + added
    return products.softmax(-1, torch.promote_types(q.dtype, torch.float32)).to(q.dtype)


def joined(bias: Optional[Tensor], mask: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
    """Return what is added to the products, None for nothing; of a mask alone, what it is."""
    if bias is None or mask is None:
        return mask if bias is None else bias.to(dtype)
    if mask.dtype == torch.bool:
        return bias.to(dtype).masked_fill(~mask, float('-inf'))
    return bias.to(dtype) + mask
