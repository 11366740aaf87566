"""Products of attentions that are more than a softmax over scaled products of queries and keys."""
from typing import Any, Callable, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .axes import split_axis
from .product import AttentionProduct, attention_weights, joined


class CosineProduct(AttentionProduct):
    """Of cosine attention: queries and keys of unit length, times a temperature of the head (Liu et al., CVPR 2022).

    The length runs over the dimensions of a head, of which removed ones are zero: both sides are masked before it.
    """

    of_heads = ('bias', 'temperature')

    def __init__(self, heads: int, qk_dims: int, v_dims: int, dropout: float = 0.0) -> None:
        super().__init__(heads, qk_dims, v_dims, 1.0, dropout=dropout)

    def forward(self, q: Tensor, k: Optional[Tensor] = None,  # type: ignore[override]
                v: Optional[Tensor] = None, bias: Optional[Tensor] = None, mask: Optional[Tensor] = None, *,
                temperature: Tensor, need_weights: bool = False) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """Return what the heads read; ``temperature`` is ``Tensor[heads, 1, 1]``, the rest as in the base class."""
        q, k, v = self.parts(q, k, v)
        tokens = q.size(1)
        both = self.query(torch.cat([q, k], 1))  # once, so that both are masked and scored as one
        q, k, v = self.apart(both[:, :tokens], both[:, tokens:], v)
        q, k = F.normalize(q, dim=-1) * temperature, F.normalize(k, dim=-1)
        return self.read(q, k, v, joined(bias, mask, q.dtype), False, need_weights)


class PooledProduct(AttentionProduct):
    """With fewer queries than tokens: each is made of several, channel by channel."""

    def forward(self, q: Tensor, k: Optional[Tensor] = None,  # type: ignore[override]
                v: Optional[Tensor] = None, *, pool: Optional[Callable[[Tensor], Tensor]] = None) -> Tensor:
        """Return what the heads read; ``pool`` makes fewer of queries ``Tensor[B, N, heads * qk_dims]``."""
        q, k, v = self.parts(q, k, v)
        return super().forward(q if pool is None else pool(q), k, v)  # type: ignore[return-value]


class DimsFirstProduct(AttentionProduct):
    """Whose result has the heads inside: the first dimension of all heads, then the second.

    In this order heads can only keep the same dimensions.

    Attributes:
        same_dims (LongTensor[v_dims]): The dimensions that all heads keep; a buffer that is not saved.
    """

    same_dims: Tensor

    def __init__(self, heads: int, qk_dims: int, v_dims: int, scale: Optional[float] = None,
                 dropout: float = 0.0) -> None:
        super().__init__(heads, qk_dims, v_dims, scale, dropout=dropout)
        self.register_buffer('same_dims', torch.arange(v_dims), persistent=False)

    def arranged(self, out: Tensor) -> Tensor:
        """Return what the heads read in the order that the projection reads."""
        return split_axis(out, -1, (self.heads, self.v_dims)).transpose(-1, -2).flatten(-2)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Return what the heads read; see the base class."""
        return self.arranged(super().forward(*args, **kwargs))  # type: ignore[arg-type]


class TalkingProduct(AttentionProduct):
    """With two layers that mix the heads, before and behind the softmax (Shazeer et al., arXiv:2003.02436)."""

    def forward(self, q: Tensor, k: Optional[Tensor] = None,  # type: ignore[override]
                v: Optional[Tensor] = None, bias: Optional[Tensor] = None, *, before: nn.Module,
                behind: nn.Module) -> Tensor:
        """Return what the heads read.

        Args:
            q (Tensor): As in the base class, like the next three.
            k (Tensor, optional): Keys.
            v (Tensor, optional): Values.
            bias (Tensor, optional): Added before the first layer.
            before (nn.Module): Linear layer, or 1x1 convolution, over the heads of ``q k^T``.
            behind (nn.Module): The same over the heads of its softmax.
        """
        q, k, v = self.parts(q, k, v)
        q, k, v = self.apart(self.query(q), k, v)
        products = q @ k.transpose(-1, -2)
        products = products if bias is None else products + bias
        weights = self._mixed(self._mixed(products, before).softmax(-1), behind)
        out = F.dropout(weights, self.dropout, self.training) @ v
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    def _mixed(products: Tensor, layer: nn.Module) -> Tensor:
        if isinstance(layer, nn.Linear):
            return layer(products.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
        return layer(products)  # type: ignore[no-any-return]


class GatedPositionProduct(AttentionProduct):
    """Blends its weights with weights of positions, by a gate of the head (d'Ascoli et al., ICML 2021)."""

    of_heads = ('position', 'gate')

    def forward(self, q: Tensor, k: Optional[Tensor] = None,  # type: ignore[override]
                v: Optional[Tensor] = None, *, position: Tensor, gate: Tensor) -> Tensor:
        """Return what the heads read.

        Args:
            q (Tensor): As in the base class, like the next two.
            k (Tensor, optional): Keys.
            v (Tensor, optional): Values.
            position (Tensor[B, heads, N, N]): Scores of positions, before their softmax.
            gate (Tensor[heads, 1, 1]): Before the sigmoid.
        """
        q, k, v = self.parts(q, k, v)
        q, k, v = self.apart(self.query(q), k, v)
        gate = gate.sigmoid()
        weights = (1 - gate) * attention_weights(q, k, None, False) + gate * position.softmax(-1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = F.dropout(weights, self.dropout, self.training) @ v
        return out.transpose(1, 2).flatten(2)


class CovarianceProduct(AttentionProduct):
    """Over channels instead of tokens: ``softmax(q^T k) v^T`` (El-Nouby et al., NeurIPS 2021).

    The softmax runs over the dimensions of the keys, and of the values with them: these stay. The dimensions of the
    queries are those of the result, in the unit ``v``.

    Args:
        heads (int): Heads.
        dims (int): Channels of a head.
        dropout (float): Share of the weights that training drops.
        values_first (bool): Packed projections have the values first, then the queries and the keys.
    """

    of_heads = ('temperature', )
    qk_stay = 'a softmax runs over the dimensions of its keys'

    def __init__(self, heads: int, dims: int, dropout: float = 0.0, values_first: bool = False) -> None:
        super().__init__(heads, dims, dims, 1.0, dropout=dropout)
        del self.query
        self.values_first = values_first

    @property
    def sizes(self) -> Any:
        """Channels of the queries, of the keys and of the values, of all heads."""
        return [self.heads * self.v_dims, self.heads * self.qk_dims, self.heads * self.qk_dims]

    def parts(self, q: Tensor, k: Optional[Tensor] = None, v: Optional[Tensor] = None) -> Tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values apart, of anything that has their channels last."""
        if not self.values_first or k is not None:
            return super().parts(q, k, v)
        queries, keys, values = self.sizes
        v, q, k = q.split([values, queries, keys], dim=-1)
        return q, k, v

    def forward(self, q: Tensor, k: Optional[Tensor] = None,  # type: ignore[override]
                v: Optional[Tensor] = None, scale: Optional[float] = None,
                temperature: Optional[Tensor] = None) -> Tensor:
        """Return what the heads read.

        Args:
            q (Tensor[B, N, heads * v_dims]): Queries; alone, with keys and values behind them.
            k (Tensor[B, N, heads * qk_dims], optional): Keys.
            v (Tensor[B, N, heads * qk_dims], optional): Values.
            scale (float, optional): Of the products; without one, queries and keys have unit length over the tokens.
            temperature (Tensor[heads, 1, 1], optional): Of the head.
        """
        q, k, v = self.parts(q, k, v)
        q = split_axis(q, -1, (self.heads, self.v_dims)).permute(0, 2, 3, 1)
        k, v = (split_axis(x, -1, (self.heads, self.qk_dims)).permute(0, 2, 3, 1) for x in (k, v))
        if scale is None:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        products = q @ k.transpose(-1, -2) * (1.0 if scale is None else scale)
        products = products if temperature is None else products * temperature
        out = F.dropout(products.softmax(-1), self.dropout, self.training) @ v
        return out.permute(0, 3, 1, 2).flatten(2)
