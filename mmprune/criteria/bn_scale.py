"""Scales of batch norms: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017."""
from typing import List

from torch import Tensor

from ..graph import Member
from ..registry import CRITERIA
from ..sparsity import NORMS
from ..unit import ChannelUnit
from .criterion import Criterion


@CRITERIA.register_module()
class BNScale(Criterion):
    """``s_c = |gamma_c|`` of the norm behind the layer that produces a channel (section 3.2).

    Args:
        combine (str): Where several norms scale a channel, as in a shortcut: ``or`` (``max``) keeps it if one of them
            does, ``and`` (``min``) only if all do.
        normalize (str): See :class:`Criterion`; the paper has one threshold for all layers and no normalization.
    """

    scope = 'global'

    def __init__(self, combine: str = 'or', normalize: str = 'none') -> None:
        super().__init__(combine, normalize)

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the absolute scales of each norm of the unit."""
        return [self.slices(unit, member).abs().mean(1) for member in self.scales(unit)]

    def scales(self, unit: ChannelUnit) -> List[Member]:
        """Return the members of a unit that are the scale of a norm."""
        return [member for member in unit.channels.members if member.axis.tensor.endswith('.weight')
                and isinstance(self.mutator.model.get_submodule(member.axis.layer), NORMS)]

    def missing(self, unit: ChannelUnit) -> str:
        """Say that there is no norm."""
        return 'no norm with a scale follows it; leave it out (exclude), or take a criterion of filters'
