"""All layers that a channel runs through have a say: as torch-pruning 1.6.1 scores groups; Fang et al., CVPR 2023."""
from typing import Callable, Dict, List, Optional

import torch
from torch import Tensor, nn

from ..arguments import one_of, renamed
from ..graph.channels import Member
from ..registry import CRITERIA
from ..units.unit import ChannelUnit
from .calibration import Calibration, backward, with_gradients
from .criterion import Criterion
from .fpgm import summed_distances

#: Norms that are layers.
NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


@CRITERIA.register_module()
class WholeGroup(Criterion):
    """The mean of what the weights of a channel say, over the layers that produce it and those that read it.

    The scores of a unit are then divided by their mean, which makes units comparable. Depthwise convolutions have no
    say.

    * ``squares``: the sum of the squared weights; batch and layer norms on the channel are layers, too.
    * ``distances``: the sum of the distances to all other channels of the layer, between their *squared* weights.
    * ``taylor``: the sum of ``|w * dL/dw|``, its gradient that of all batches.

    So scores the other library (``GroupMagnitudeImportance``, ``FPGMImportance``, ``GroupTaylorImportance``); on one
    network they were found to cut the same channels (docs/criteria_table.md).

    Args:
        source (str): ``squares``, ``distances`` or ``taylor``.
        of (str, optional): The former name of ``source``.
    """

    def __init__(self, source: str = 'squares', of: Optional[str] = None) -> None:
        super().__init__(normalize='mean')
        self.source = one_of('source', renamed('of', of, 'source', source), ('squares', 'distances', 'taylor'))
        self.needs_data = self.needs_loss = self.source == 'taylor'

    def observe(self, calibration: Calibration) -> None:
        """Add the gradients of all batches up."""
        parameters = dict(self.mutator.model.named_parameters())
        with with_gradients(parameters.values()):
            for batch in calibration.batches:
                backward(calibration.loss(batch), self.mutator.model)
        self.products: Dict[str, Tensor] = {name: parameter.detach().double() * parameter.grad for name, parameter
                                            in parameters.items() if parameter.grad is not None}

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return one score, the mean of all layers of the unit."""
        rules: Dict[str, Callable[[Member], Tensor]] = {
            'squares': lambda member: self.slices(unit, member).double().square().sum(1),
            'distances': lambda member: summed_distances(self.slices(unit, member).double().square()),
            'taylor': lambda member: self.slices(unit, member, self.products[member.axis.tensor]).abs().sum(1)}
        parts = [rules[self.source](member) for member in unit.channels.members
                 if member.axis.role in ('out', 'in') or (self.source == 'squares' and self._is_scale(member))
                 if self.source != 'taylor' or member.axis.tensor in self.products]
        return [torch.stack(parts).mean(0)] if parts else []

    def _is_scale(self, member: Member) -> bool:
        """Tell whether a member is the scale of a batch or layer norm."""
        return member.axis.tensor.endswith('.weight') and isinstance(
            self.mutator.model.get_submodule(member.axis.layer), NORM_LAYERS)

    def missing(self, unit: ChannelUnit) -> str:
        """Say why the unit has no score."""
        return 'the loss depends on no layer of it; leave the unit out (exclude)'
