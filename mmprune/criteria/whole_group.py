"""Scores over all layers that a channel runs through, as in torch-pruning 1.6.1; Fang et al., DepGraph, CVPR 2023."""
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

#: Norms that count as layers.
NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


@CRITERIA.register_module()
class WholeGroup(Criterion):
    """The mean score of a channel's weights over the layers that produce it and those that read it.

    The scores of a unit are then divided by their mean, which makes units comparable. Depthwise convolutions do not
    count. The sources are those of torch-pruning (docs/criteria_table.md compares them):

    * ``squares`` (GroupMagnitudeImportance): the sum of the squared weights; batch and layer norms count as layers.
    * ``distances`` (FPGMImportance): the sum of the distances between the *squared* weights of the layer's channels.
    * ``taylor`` (GroupTaylorImportance): the sum of ``|w * dL/dw|``, the gradient summed over all batches.

    Args:
        source (str): ``squares``, ``distances`` or ``taylor``.
        of (str, optional): The former name of ``source``.
    """

    lacking = 'the loss depends on no layer of it; leave the unit out (exclude)'

    def __init__(self, source: str = 'squares', of: Optional[str] = None) -> None:
        super().__init__(normalize='mean')
        self.source = one_of('source', renamed('of', of, 'source', source), ('squares', 'distances', 'taylor'))
        self.needs_data = self.needs_loss = self.source == 'taylor'

    def observe(self, calibration: Calibration) -> None:
        """Sum the gradients over all batches."""
        parameters = dict(self.mutator.model.named_parameters())
        with with_gradients(parameters.values()):
            for batch in calibration.batches:
                backward(calibration.loss(batch), self.mutator.model)
        self.products: Dict[str, Tensor] = {name: parameter.detach().double() * parameter.grad for name, parameter
                                            in parameters.items() if parameter.grad is not None}

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return a single tensor: the mean over all layers of the unit."""
        rules: Dict[str, Callable[[Member], Tensor]] = {
            'squares': lambda member: self.slices(unit, member).double().square().sum(1),
            'distances': lambda member: summed_distances(self.slices(unit, member).double().square()),
            'taylor': lambda member: self.slices(unit, member, self.products[member.axis.tensor]).abs().sum(1)}
        parts = [rules[self.source](member) for member in unit.channels.members
                 if member.axis.role in ('out', 'in') or (self.source == 'squares' and self._is_scale(member))
                 if self.source != 'taylor' or member.axis.tensor in self.products]
        return [torch.stack(parts).mean(0)] if parts else []

    def _is_scale(self, member: Member) -> bool:
        return member.axis.tensor.endswith('.weight') and isinstance(
            self.mutator.model.get_submodule(member.axis.layer), NORM_LAYERS)
