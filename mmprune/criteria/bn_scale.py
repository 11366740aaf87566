"""Scales of batch norms: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017."""
import os
from typing import Any, Dict, List, Mapping, Optional, Union

import torch
from torch import Tensor

from ..registry import CRITERIA
from ..units.mutator import ChannelMutator
from ..units.unit import ChannelUnit
from .criterion import ALIASES, COMBINATIONS, Criterion, UnscorableError
from .slimming_schema import NormVote, norms_of, read_schema, votes_of


@CRITERIA.register_module()
class BNScale(Criterion):
    """``s_c = |gamma_c|`` of the norm after the layer that produces a channel (section 3.2).

    Args:
        combine (str): Where several norms scale a channel, as in a shortcut: ``or`` (``max``) keeps it if any of them
            does, ``and`` (``min``) only if all do.
        normalize (str): See :class:`Criterion`; the paper has one threshold for all layers and no normalization.
        schema (dict or str, optional): Schema, or its json file, that states which norms decide about which layers; see
            :mod:`mmprune.criteria.slimming_schema`. ``combine`` and ``normalize`` are not used then.
    """

    scope = 'global'
    lacking = 'no norm with a scale follows it; leave it out (exclude), or take a criterion of filters'

    def __init__(self, combine: str = 'or', normalize: str = 'none',
                 schema: Union[None, Mapping[str, Any], str, 'os.PathLike[str]'] = None) -> None:
        super().__init__(combine, normalize)
        self.schema = None if schema is None else read_schema(schema)
        self._votes: Optional[Dict[str, NormVote]] = None

    def bind(self, mutator: ChannelMutator) -> None:
        """Say whose units are scored.

        Raises:
            SchemaError: The schema is of another model.
        """
        super().bind(mutator)
        if self.schema is not None:
            self._votes = votes_of(self.schema, mutator)

    def score(self, unit: ChannelUnit) -> Tensor:
        """Return the importance of a unit's channels; see :meth:`Criterion.score`."""
        if self._votes is None:
            return super().score(unit)
        if unit.name not in self._votes:
            raise UnscorableError(f'the schema leaves unit {unit.name!r} out: a layer that produces it is not among '
                                  'its modules, or has no next_bn, or no shortcut joins its norms')
        return COMBINATIONS[ALIASES[self._votes[unit.name].method]](torch.stack(self.member_scores(unit)))

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the absolute scales of each norm of the unit, with a schema of those that it names."""
        return [self.slices(unit, member).abs().mean(1) for member in norms_of(self.mutator.model, unit.channels)
                if self._votes is None or member.axis.layer in self._votes[unit.name].norms]
