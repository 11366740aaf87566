"""The gated attention unit of RTMPose's heads (Hua et al., ICML 2022)."""
import math
from typing import Any, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .product import QueryScale
from .taking_over import PrunableAttention, register_attention


class GatedProduct(nn.Module):
    """``u * (relu(scale (q k^T + bias))^2 v)``, with queries and keys that are one base, scaled and moved.

    Args:
        value_dims (int): Channels of the gate ``u`` and of the values ``v``.
        base_dims (int): Channels of the base.
        dropout (float): Share of the weights that training drops.

    Attributes:
        value_dims, base_dims (int): The present sizes; a cut writes them.
        query (QueryScale): Of the queries, of the dense width.
    """

    def __init__(self, value_dims: int, base_dims: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.value_dims, self.base_dims, self.dropout = value_dims, base_dims, dropout
        self.scale = 1 / math.sqrt(base_dims)
        self.query = QueryScale(base_dims, self.scale)

    def parts(self, uv: Tensor) -> Sequence[Tensor]:
        """Return the gate, the values and the base, which lie side by side on the last axis."""
        return uv.split([self.value_dims, self.value_dims, self.base_dims], dim=-1)

    def forward(self, uv: Tensor, gamma: Tensor, beta: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """Return what the gate lets through.

        Args:
            uv (Tensor[B, N, 2 * value_dims + base_dims]): Gate, values and base.
            gamma (Tensor[2, base_dims]): What makes queries and keys of the base.
            beta (Tensor[2, base_dims]): What is added to them.
            bias (Tensor[1, N, N], optional): Added to the products of queries and keys.

        Returns:
            Tensor[B, N, value_dims]: For the output projection.
        """
        gate, values, base = self.parts(uv)
        query, key = (base.unsqueeze(2) * gamma + beta).unbind(2)
        products = torch.bmm(self.query(query), key.transpose(1, 2))
        kernel = F.relu(products if bias is None else products + bias * self.scale).square()
        return gate * torch.bmm(F.dropout(kernel, self.dropout, self.training), values)


@register_attention('mmpose.RTMCCBlock')
class GatedUnit(PrunableAttention):
    """Of keypoints as tokens; its shortcut and the drop of its path are those of its own class."""

    ln: Any
    uv: Any
    o: Any
    act_fn: Any
    rel_pos_bias: Any

    def unfit(self) -> Optional[str]:
        """Return what is not followed."""
        if self.attn_type != 'self-attn':
            return 'its queries and keys have no base in common'
        return 'it rotates queries and keys by their places' if self.pos_enc else None

    def begin(self) -> None:
        """Write the sizes down."""
        self.product = GatedProduct(self.e, self.s, self.dropout_rate)

    def _forward(self, inputs: Tensor) -> Tensor:
        """Return the attention of tokens ``Tensor[B, N, C]`` to one another."""
        tokens = inputs.size(1)
        bias = self.rel_pos_bias(tokens)[:, :tokens, :tokens] if self.use_rel_bias else None
        return self.o(self.product(self.act_fn(self.uv(self.ln(inputs))), self.gamma, self.beta, bias))
