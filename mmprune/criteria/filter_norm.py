"""The norm of filters: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (section 3.1)."""
from typing import List

import torch
from torch import Tensor

from ..registry import CRITERIA
from ..units.unit import ChannelUnit
from .criterion import Criterion


class FilterNorm(Criterion):
    """``s_c = (sum |F_c|^p)^(1/p)``: the norm of the filters that produce a channel, without biases.

    Filters that a grouped convolution ties are taken as a single vector.

    Its arguments are those of :class:`Criterion`.
    """

    p = 2.0

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the norms in each layer that produces the unit."""
        return [torch.linalg.vector_norm(self.slices(unit, member), self.p, dim=1)
                for member in unit.channels.producers]


@CRITERIA.register_module()
class L1(FilterNorm):
    """The sum of a filter's absolute weights (Li et al., ICLR 2017)."""

    p = 1.0


@CRITERIA.register_module()
class L2(FilterNorm):
    """The Euclidean norm of a filter (Li et al., ICLR 2017; He et al., Soft Filter Pruning, IJCAI 2018)."""
