"""Two criteria: one says how many channels of each unit go, another which."""
from typing import Any, List, Mapping, Union

import numpy as np
import torch
from torch import Tensor

from ..registry import CRITERIA
from ..units.mutator import ChannelMutator
from ..units.unit import ChannelUnit
from .calibration import Calibration
from .criterion import Criterion, UnscorableError, make_criterion


@CRITERIA.register_module()
class OrderedBy(Criterion):
    """The scores of one criterion, handed out within each unit in the order of another.

    Whatever compares scores, be it a search, a share of each layer or a solver, removes as many channels of each unit
    as by the first criterion alone, and those that the second finds least important. A unit that the second cannot
    score keeps the order of the first.

    Args:
        widths (str, dict or Criterion): Says how many channels of each unit go; see
            :func:`~.criterion.build_criterion`.
        order (str, dict or Criterion): Says which of them. Weights that stay are adjusted as this criterion does it.
    """

    def __init__(self, widths: Union[str, Mapping[str, Any], Criterion],
                 order: Union[str, Mapping[str, Any], Criterion] = 'LeastSquaresError') -> None:
        super().__init__()
        self.widths, self.order = make_criterion(widths), make_criterion(order)
        both = self.widths, self.order
        self.needs_data, self.needs_loss = (any(getattr(one, need) for one in both)
                                            for need in ('needs_data', 'needs_loss'))
        self.scope = self.widths.scope

    def bind(self, mutator: ChannelMutator) -> None:
        """Say whose units are scored."""
        super().bind(mutator)
        self.widths.bind(mutator)
        self.order.bind(mutator)

    @property
    def is_calibrated(self) -> bool:
        """Whether both criteria are."""
        return self.widths.is_calibrated and self.order.is_calibrated

    def observe(self, calibration: Calibration) -> None:
        """Let both criteria look at the data."""
        self.widths.calibrate(calibration)
        self.order.calibrate(calibration)

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return a single tensor: the first criterion's scores in the second's order."""
        scores = self.widths.score(unit)
        try:
            order = self.order.score(unit).argsort(stable=True)
        except UnscorableError:
            return [scores]
        found = torch.empty_like(scores)
        found[order.to(scores.device)] = scores.sort().values
        return [found]

    def adjust(self, masks: Mapping[str, np.ndarray]) -> None:
        """Let the weights that stay make up for those that go, as the second criterion does it."""
        self.order.adjust(dict(masks))
