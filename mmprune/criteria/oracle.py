"""The oracle: the loss change of really removing each channel (Molchanov et al., ICLR 2017, section 2.1)."""
from typing import Any, Dict, List

import torch
from torch import Tensor

from ..arguments import one_of
from ..registry import CRITERIA
from ..units.ranks import by_element
from ..units.unit import ChannelUnit
from .calibration import Calibration
from .criterion import Criterion


@CRITERIA.register_module()
class Oracle(Criterion):
    """``s_c = |L(without c) - L|``: one pass over the data for each channel, so for small networks.

    A channel is removed by setting the columns of all layers that read it to zero, which computes what the network
    without it computes.

    Args:
        change (str): ``absolute`` (the paper's oracle-abs), or ``signed`` (oracle-loss): a channel without which the
            loss falls is removed first.
    """

    scope = 'global'
    needs_data = needs_loss = True

    def __init__(self, change: str = 'absolute') -> None:
        super().__init__()
        self.change = one_of('change', change, ('absolute', 'signed'))

    def observe(self, calibration: Calibration) -> None:
        """Measure the loss, then the loss without each set of each unit in turn."""
        before = _mean_loss(calibration)
        self.losses: Dict[str, Tensor] = {}
        for unit in self.mutator.units:
            single = by_element(unit)
            changes = [self._without(single, number, calibration) - before for number in range(int(single.kept.sum()))]
            self.losses[unit.name] = torch.tensor(changes, dtype=torch.float64)

    def _without(self, unit: ChannelUnit, number: int, calibration: Calibration) -> float:
        saved: List[Any] = []
        try:
            for member in unit.channels.members:
                if member.axis.role == 'in':
                    tensor, dim = self.tensor(member), member.axis.dim
                    index = self.mutator.positions(unit, member)[number].to(tensor.device)
                    saved.append((tensor, dim, index, tensor.index_select(dim, index)))
                    tensor.index_fill_(dim, index, 0.0)
            return _mean_loss(calibration)
        finally:
            for tensor, dim, index, values in saved:
                tensor.index_copy_(dim, index, values)

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the changes of the loss."""
        change = self.losses[unit.name]
        return [change.abs() if self.change == 'absolute' else change]


def _mean_loss(calibration: Calibration) -> float:
    return sum(float(calibration.loss(batch)) for batch in calibration.batches) / len(calibration.batches)
