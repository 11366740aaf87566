"""Group Fisher information of one calibration: Liu et al., Group Fisher Pruning, ICML 2021 (equations 4 to 8)."""
from typing import List

from torch import Tensor

from ..arguments import one_of
from ..group_fisher.unit import channel_cost
from ..registry import CRITERIA
from ..units.complexity import NORMALIZATION_TYPES
from ..units.unit import ChannelUnit
from .tapped import TappedCriterion


@CRITERIA.register_module()
class GroupFisher(TappedCriterion):
    """``s_c = sum_b (sum over layers, calls, positions of x * dL/dx)^2``, divided by what a channel costs.

    :class:`~mmprune.group_fisher.unit.GroupFisherChannelUnit` accumulates the same quantity during a prune run; here it
    comes from the batches of a calibration.

    Args:
        normalization_type (str): What a score is divided by: ``act`` (activations of one channel), ``flops``
            (multiply-adds of one channel) or ``none``.
    """

    scope = 'global'

    def __init__(self, normalization_type: str = 'act') -> None:
        super().__init__()
        self.normalization_type = one_of('normalization_type', normalization_type, dict.fromkeys(NORMALIZATION_TYPES))

    def accumulated(self, recorded: Tensor) -> Tensor:
        """Return ``Tensor[sets]``, the sum over samples of the squares of ``Tensor[N, sets]``."""
        return recorded.square().sum(0)

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the information of each set."""
        return [] if self.unseen(unit) else [self.of_unit(unit)]

    def score(self, unit: ChannelUnit) -> Tensor:
        """Return the information, divided by the cost of a set: dimensions of all heads go together, and so count."""
        return super().score(unit) / channel_cost(unit.channels, self.normalization_type, self.mutator.complexity,
                                                  self.mutator.widths)
