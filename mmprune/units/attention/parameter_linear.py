"""A linear layer by the rows of a parameter that another module holds, as ``in_proj_weight`` is held."""
from typing import Optional

import torch.nn.functional as F
from torch import Tensor, nn


class ParameterLinear(nn.Module):
    """``F.linear`` by some rows of a weight that the module around it owns, and hands over with every call.

    It has no parameters, so that the keys of a checkpoint stay. Its name is that of the weight with ``_rows`` in place
    of ``_weight`` or ``.weight``: so it is known where the columns of that weight read.
    """

    def forward(self, input: Tensor, weight: Tensor, bias: Optional[Tensor], start: int, stop: int, *,
                offset: int = 0, adds_bias: bool = True) -> Tensor:
        """Project tokens.

        Args:
            input (Tensor[*, C]): Tokens.
            weight (Tensor[R, C]): The parameter itself.
            bias (Tensor, optional): The parameter itself; one may be that of several weights.
            start (int): First row.
            stop (int): The row behind the last one.
            offset (int): Where in the bias that of the first row of the weight stands.
            adds_bias (bool): Whether these rows have a bias; it goes with them anyway.

        Returns:
            Tensor[*, stop - start]: The projected tokens.
        """
        bias = bias[offset + start:offset + stop] if bias is not None and adds_bias else None
        return F.linear(input, weight[start:stop], bias)
