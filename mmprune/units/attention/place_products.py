"""Products of attentions over feature maps: pooled head by head, with positions that meet the queries, or linear."""
from typing import Any, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .product import AttentionProduct, attended

#: Height and width of a feature map.
Size = Tuple[int, int]
#: A depthwise convolution over the dimensions of a head, and a norm over them behind it.
Pool = Tuple[nn.Conv2d, Optional[nn.Module]]


def size_after(pool: Optional[Pool], size: Sequence[int]) -> Size:
    """Return the size of a feature map behind a pool."""
    height, width = size
    if pool is None:
        return height, width
    conv: Any = pool[0]
    rows, columns = ((one + 2 * pad - kernel) // stride + 1 for one, pad, kernel, stride in zip(
        size, conv.padding, conv.kernel_size, conv.stride))
    return rows, columns


def at_distances(table: Tensor, queries: int, keys: int) -> Tensor:
    """Return the rows ``Tensor[queries, keys, dims]`` of a table, one for each distance along an axis of the map."""
    most = 2 * max(queries, keys) - 1
    if len(table) != most:
        table = F.interpolate(table.t().unsqueeze(0), size=most, mode='linear').squeeze(0).t()
    q, k = (torch.arange(one, device=table.device) for one in (queries, keys))
    wide, high = max(keys / queries, 1.0), max(queries / keys, 1.0)
    return table[(q[:, None] * wide - k[None] * high + (keys - 1) * high).long()]


class PlaceProduct(AttentionProduct):
    """Queries meet learnt vectors of the distance to each key, along both axes (Li et al., CVPR 2022).

    Each of queries, keys and values may be pooled before, by a convolution over the dimensions of a head that all heads
    share, and the queries may be added to the result.
    """

    def forward(self, q: Tensor, k: Optional[Tensor] = None,  # type: ignore[override]
                v: Optional[Tensor] = None, *, size: Sequence[int], rows: Optional[Tensor] = None,
                columns: Optional[Tensor] = None, pools: Sequence[Optional[Pool]] = (None, None, None),
                first: int = 0, residual: bool = False, norms: Sequence[Optional[nn.Module]] = (None, None)) -> Tensor:
        """Return what the heads read.

        Args:
            q (Tensor): As in the base class, like the next two.
            k (Tensor, optional): Keys.
            v (Tensor, optional): Values.
            size (sequence[int]): Height and width of the feature map of the tokens.
            rows (Tensor[distances, qk_dims], optional): The learnt vectors of distances down.
            columns (Tensor[distances, qk_dims], optional): Those of distances across.
            pools (sequence[tuple]): Of queries, keys and values.
            first (int): Tokens without a place, before the others.
            residual (bool): Add the queries.
            norms (sequence[nn.Module]): Of queries and keys, over the channels of a head.
        """
        parts = [self._pooled(x, pool, dims, size, first) for x, pool, dims in zip(
            self.parts(q, k, v), pools, (self.qk_dims, self.qk_dims, self.v_dims))]
        q, k = (self._placed(x, 0, self.heads, norm, None) for x, norm in zip(parts, norms))
        q, k, v = self.apart(self.query(q), k, parts[2])
        plain = q / self.query.scale
        bias = None
        if rows is not None and columns is not None:
            height, width = size_after(pools[0], size)
            below, right = size_after(pools[1], size)
            places = plain[:, :, first:].unflatten(2, (height, width))
            down = torch.einsum('bnhwc,hkc->bnhwk', places, at_distances(rows, height, below))
            across = torch.einsum('bnhwc,wkc->bnhwk', places, at_distances(columns, width, right))
            bias = (down.unsqueeze(-1) + across.unsqueeze(-2)).flatten(4).flatten(2, 3)
            bias = F.pad(bias, (first, 0, first, 0)) if first else bias
        out = attended(q, k, v, bias, False, self.dropout if self.training else 0.0)
        return (out + plain if residual else out).transpose(1, 2).flatten(2)

    def _pooled(self, x: Tensor, pool: Optional[Pool], dims: int, size: Sequence[int], first: int) -> Tensor:
        if pool is None:
            return x
        conv, norm = pool
        x = x.unflatten(-1, (self.heads, dims)).transpose(1, 2)
        places = x[:, :, first:].flatten(0, 1).transpose(1, 2).unflatten(-1, tuple(size))
        places = conv(places).flatten(2).transpose(1, 2).unflatten(0, (len(x), self.heads))
        x = torch.cat([x[:, :, :first], places], 2) if first else places
        return (x if norm is None else norm(x)).transpose(1, 2).flatten(2)


class LinearProduct(AttentionProduct):
    """Without a softmax: ``f(q) (f(k)^T v)``, over the sum of its weights (Katharopoulos et al., ICML 2020).

    Packed head after head. A convolution with a group for each third of a head has made some heads from others: all
    keep the same dimensions, of queries, keys and values alike.
    """

    heads_stay = 'a convolution has a group for each third of a head'

    def __init__(self, heads: int, dims: int, eps: float) -> None:
        super().__init__(heads, dims, dims, 1.0, by_head=True)
        self.eps = eps

    def forward(self, q: Tensor, *, kernel: nn.Module) -> Tensor:  # type: ignore[override]
        """Return what the heads read of packed ``Tensor[B, N, heads * 3 * dims]``; ``kernel`` is ``f``."""
        q, k, v = self.parts(q)
        q, k, v = self.apart(self.query(kernel(q)), kernel(k), v)
        dtype = v.dtype
        q, k, v = (x.to(torch.promote_types(dtype, torch.float32)) for x in (q, k, v))
        out = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2, keepdim=True).transpose(-1, -2) + self.eps)
        return out.transpose(1, 2).flatten(2).to(dtype)


class FactorisedProduct(AttentionProduct):
    """``q (softmax(k)^T v)``, the softmax over the tokens, and queries times convolved values (Xu et al., ICCV 2021).

    A dimension of queries, keys, values and of the result is one.
    """

    def __init__(self, heads: int, dims: int, scale: float) -> None:
        super().__init__(heads, dims, dims, 1.0)
        self.scale = scale

    def forward(self, q: Tensor, *, size: Sequence[int],  # type: ignore[override]
                convs: Sequence[nn.Conv2d]) -> Tensor:
        """Return what the heads read.

        Args:
            q (Tensor[B, 1 + N, 3 * heads * dims]): Queries, keys and values, those of a token without a place first.
            size (sequence[int]): Height and width of the feature map of the others.
            convs (sequence[nn.Conv2d]): Depthwise ones, each of the values of some of the heads.
        """
        q, k, v = self.parts(q)
        places = v[:, 1:].transpose(1, 2).unflatten(-1, tuple(size))
        counts = [len(conv.weight) for conv in convs]
        convolved = torch.cat([conv(part) for conv, part in zip(convs, places.split(counts, 1)) if len(conv.weight)], 1)
        q, k, v = self.apart(self.query(q), k, v)
        out = self.scale * (q @ (k.softmax(2).transpose(-1, -2) @ v))
        local = convolved.flatten(2).transpose(1, 2).unflatten(-1, (self.heads, self.v_dims)).transpose(1, 2)
        return (out + F.pad(q[:, :, 1:] * local, (0, 0, 1, 0))).transpose(1, 2).flatten(2)


def pools_of(attention: Any) -> List[Optional[Pool]]:
    """Return the pools of queries, keys and values of an attention with ``pool_q``, ``norm_q`` and so on."""
    return [None if (conv := getattr(attention, f'pool_{name}')) is None else (conv, getattr(attention, f'norm_{name}'))
            for name in 'qkv']
