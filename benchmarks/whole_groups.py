"""Scores of whole groups of layers over mmprune's units, as torch-pruning 1.6.1 defines them.

The two libraries' rows of the criteria table differ by what is cut and by what is scored. These criteria score as the
other library does and are cut as ours are, so that the rest of the difference is the cut's.
"""
from typing import Callable, Dict, List

import torch
from torch import Tensor

from mmprune.criteria.criterion import Calibration, Criterion
from mmprune.graph import Member
from mmprune.registry import CRITERIA
from mmprune.unit import ChannelUnit

#: Roles of the axes of layers, and of what scales their channels.
LAYERS, SCALES = ('out', 'in', 'depthwise'), ('affine',)


def distances(rows: Tensor) -> Tensor:
    """Return ``Tensor[C]``, the summed distances of rows of squares ``Tensor[C, elements]`` to all others."""
    return torch.cdist(rows.square()[None], rows.square()[None])[0].sum(0)


@CRITERIA.register_module()
class WholeGroup(Criterion):
    """The mean, over the layers that make and read a channel and the norms on it, of a score of their weights.

    The scores of a unit are divided by their mean.

    Args:
        of (str): ``squares`` sums squared weights, those of norms too; ``distances`` those between the squared weights
            of channels; ``taylor`` sums ``|weight * gradient|``, the gradient summed over the batches.
    """

    scope = 'layer'

    def __init__(self, of: str) -> None:
        super().__init__(normalize='mean')
        self.of, self.needs_data, self.needs_loss = of, of == 'taylor', of == 'taylor'

    def observe(self, calibration: Calibration) -> None:
        """Add up gradients."""
        with torch.enable_grad():
            for batch in calibration.batches:
                calibration.loss(batch).backward()
        self.products: Dict[str, Tensor] = {
            name: parameter.detach() * parameter.grad for name, parameter in self.mutator.model.named_parameters()
            if parameter.grad is not None}

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return one score for all layers of the unit."""
        rules: Dict[str, Callable[[Member], Tensor]] = {
            'squares': lambda member: self.slices(unit, member).square().sum(1),
            'distances': lambda member: distances(self.slices(unit, member)),
            'taylor': lambda member: self.slices(unit, member, self.products[member.axis.tensor]).abs().sum(1)}
        roles = (*LAYERS, *SCALES) if self.of == 'squares' else LAYERS
        parts = [rules[self.of](member) for member in unit.channels.members
                 if member.axis.role in roles and member.axis.tensor.endswith('.weight')]
        return [torch.stack(parts).mean(0)]
