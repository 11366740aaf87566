"""First-order Taylor expansions of the loss: Molchanov et al., ICLR 2017 (equation 8) and CVPR 2019 (equation 8)."""
from typing import Dict, List, Optional

import torch
from torch import Tensor

from ..arguments import one_of, renamed
from ..registry import CRITERIA
from ..units.unit import ChannelUnit
from .calibration import Calibration, backward, with_gradients
from .tapped import TappedCriterion


@CRITERIA.register_module()
class Taylor(TappedCriterion):
    """The first-order estimate of how much the loss changes without a channel.

    ``activations`` (ICLR 2017): ``s_c = mean over samples |1/M sum over M positions of a * dL/da|``, of the sample's
    own loss, summed over all layers that read the channel; ``M`` is taken from the example inputs.

    ``weights`` (CVPR 2019): ``s_c = mean over batches (sum over the weights of a filter of w * dL/dw)^2``, summed over
    the layers that produce the channel.

    Args:
        source (str): ``activations`` or ``weights``.
        normalize (str): See :class:`Criterion`; ``default`` is ``l2`` for activations, ``none`` for weights, as in the
            papers.
        of (str, optional): The former name of ``source``.
    """

    scope = 'global'

    def __init__(self, source: str = 'activations', normalize: str = 'default', of: Optional[str] = None) -> None:
        self.source = one_of('source', renamed('of', of, 'source', source), ('activations', 'weights'))
        default = 'l2' if self.source == 'activations' else 'none'
        super().__init__('sum', default if normalize == 'default' else normalize)

    def observe(self, calibration: Calibration) -> None:
        """Run all batches forward and backward."""
        if self.source == 'activations':
            super().observe(calibration)
            return
        model = self.mutator.model
        names = {member.axis.tensor for unit in self.mutator.units for member in unit.channels.producers}
        tensors = {name: parameter for name, parameter in model.named_parameters() if name in names}
        self.squares: Dict[str, Tensor] = {}
        with with_gradients(tensors.values()):
            for batch in calibration.batches:
                backward(calibration.loss(batch), model)
                self._add({name: weight.detach() * weight.grad for name, weight in tensors.items()
                           if weight.grad is not None})
                for parameter in model.parameters():
                    parameter.grad = None
        self.batches = len(calibration.batches)

    def _add(self, products: Dict[str, Tensor]) -> None:
        for unit in self.mutator.units:
            for member in unit.channels.producers:
                if member.axis.tensor in products:
                    sums = self.slices(unit, member, products[member.axis.tensor]).double().sum(1).square()
                    key = f'{unit.name} {member.axis.tensor} {member.axis.dim}'
                    self.squares[key] = self.squares.get(key, torch.zeros_like(sums)) + sums

    def accumulated(self, recorded: Tensor) -> Tensor:
        """Return the sum over samples of the absolute changes; the loss is a mean over the samples."""
        return (recorded * len(recorded)).abs().sum(0)

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the mean over samples, or for each layer that produces the unit the mean over batches."""
        if self.source == 'activations':
            if self.unseen(unit):
                return []
            positions = self.mutator.complexity.channel_acts(unit.channels)
            return [self.of_unit(unit) / (self.samples * max(1, positions))]
        keys = [f'{unit.name} {member.axis.tensor} {member.axis.dim}' for member in unit.channels.producers]
        return [self.squares[key] / self.batches for key in keys if key in self.squares]

    def missing(self, unit: ChannelUnit) -> str:
        """Return why the unit has no score."""
        if self.source == 'activations':
            return super().missing(unit)
        return 'the loss depends on no layer that produces it; leave the unit out (exclude)'
