"""Scales of batch norms: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017."""
import os
from typing import Any, Dict, List, Mapping, Optional, Union

import torch
from torch import Tensor

from ..graph.channels import Member
from ..registry import CRITERIA
from ..units.mutator import ChannelMutator
from ..units.unit import ChannelUnit
from .criterion import ALIASES, COMBINATIONS, Criterion, UnscorableError
from .slimming_schema import NormVote, norms_of, read_schema, votes_of


@CRITERIA.register_module()
class BNScale(Criterion):
    """``s_c = |gamma_c|`` of the norm behind the layer that produces a channel (section 3.2).

    Args:
        combine (str): Where several norms scale a channel, as in a shortcut: ``or`` (``max``) keeps it if one of them
            does, ``and`` (``min``) only if all do.
        normalize (str): See :class:`Criterion`; the paper has one threshold for all layers and no normalization.
        schema (dict or str, optional): Schema, or its json file, that says which norms decide about which layers; see
            :mod:`mmprune.criteria.slimming_schema`. ``combine`` is not used then.
    """

    scope = 'global'

    def __init__(self, combine: str = 'or', normalize: str = 'none',
                 schema: Union[None, Mapping[str, Any], str, 'os.PathLike[str]'] = None) -> None:
        super().__init__(combine, normalize)
        self.schema = None if schema is None else read_schema(schema)
        self._says: Optional[Dict[str, NormVote]] = None

    def bind(self, mutator: ChannelMutator) -> None:
        """Say whose units are scored.

        Raises:
            SchemaError: The schema is of another model.
        """
        super().bind(mutator)
        if self.schema is not None:
            self._says = votes_of(self.schema, mutator)

    def score(self, unit: ChannelUnit) -> Tensor:
        """Return the importance of a unit's channels; see :meth:`Criterion.score`."""
        if self._says is None:
            return super().score(unit)
        if unit.name not in self._says:
            raise UnscorableError(f'the schema leaves unit {unit.name!r} out: a layer that produces it is not among '
                                  'its modules, or has no next_bn, or no shortcut joins its norms')
        scales = [self._scale(unit, member) for member in self.scales(unit)
                  if member.axis.layer in self._says[unit.name].norms]
        return COMBINATIONS[ALIASES[self._says[unit.name].method]](torch.stack(scales))

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the absolute scales of each norm of the unit."""
        return [self._scale(unit, member) for member in self.scales(unit)]

    def _scale(self, unit: ChannelUnit, member: Member) -> Tensor:
        return self.slices(unit, member).abs().mean(1)

    def scales(self, unit: ChannelUnit) -> List[Member]:
        """Return the members of a unit that are the scale of a norm."""
        axes = {id(axis) for axis in norms_of(self.mutator.model, unit.channels)}
        return [member for member in unit.channels.members if id(member.axis) in axes]

    def missing(self, unit: ChannelUnit) -> str:
        """Say that there is no norm."""
        return 'no norm with a scale follows it; leave it out (exclude), or take a criterion of filters'
