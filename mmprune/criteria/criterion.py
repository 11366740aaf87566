"""The base class of all criteria: scores of single layers, normalized and combined into those of a unit."""
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

import numpy as np
import torch
from torch import Tensor

from ..arguments import UserError, nearest, one_of, short
from ..graph.channels import Member
from ..group_fisher.taps import untapped_weight
from ..registry import CRITERIA, build
from ..units.mutator import ChannelMutator
from ..units.ranks import by_element, rank
from ..units.structure import Structure
from ..units.unit import ChannelUnit
from ..units.weight_norm import effective
from .calibration import Calibration, calibrating

#: How the scores of a unit's layers are combined; Network Slimming's ``or`` keeps what any layer keeps, ``and`` only
#: what all of them keep.
COMBINATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    'sum': lambda scores: scores.sum(0), 'mean': lambda scores: scores.mean(0),
    'max': lambda scores: scores.amax(0), 'min': lambda scores: scores.amin(0)}
ALIASES = {'or': 'max', 'and': 'min'}
#: What the scores of a layer are divided by before they are combined.
NORMALIZATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    'none': lambda scores: scores.new_ones(()), 'sum': lambda scores: scores.abs().sum(),
    'mean': lambda scores: scores.abs().mean(), 'max': lambda scores: scores.abs().amax(),
    'l2': lambda scores: scores.square().sum().sqrt()}
#: What to do about a unit without a score.
ADVICE = 'leave the unit out (exclude) or take a criterion of weights'


class CriterionError(UserError):
    """A criterion cannot score; the message says why, and what to do."""


class UnscorableError(CriterionError):
    """A criterion cannot score this unit; others it may."""


class Criterion:
    """Importance of channels; those with the lowest scores are removed first.

    Args:
        combine (str): How the scores of a unit's layers are combined: ``sum``, ``mean``, ``max`` (``or``), ``min``
            (``and``).
        normalize (str): What the scores of a layer are divided by first: ``none``, or the ``sum``, ``mean``, ``max`` or
            ``l2`` norm of their absolute values, which makes layers comparable.

    Attributes:
        needs_data (bool): :meth:`calibrate` must be called before :meth:`score`.
        needs_loss (bool): The data must come with a loss function.
        scope (str): Where the paper compares scores: ``global``, over all units, or ``layer``, within each unit.
        lacking (str): What a unit without a score lacks, and what to do about it.
    """

    needs_data = False
    needs_loss = False
    scope = 'layer'
    lacking = 'none of its layers has what it looks at; leave the unit out (exclude) or take another criterion'
    mutator: ChannelMutator

    def __init__(self, combine: str = 'mean', normalize: str = 'none') -> None:
        self.combine = one_of('combine', ALIASES.get(combine, combine), COMBINATIONS)
        self.normalize = one_of('normalize', normalize, NORMALIZATIONS)
        self._structure: Optional[Structure] = None

    def bind(self, mutator: ChannelMutator) -> None:
        """Say whose units are scored: those of a prepared mutator."""
        self.mutator = mutator
        self._structure = None  # data seen so far is that of another model

    @property
    def is_calibrated(self) -> bool:
        """Whether no calibration is needed, or it was made on the model as it is at present."""
        return not self.needs_data or self._structure == self.mutator.structure

    def calibrate(self, calibration: Calibration) -> None:
        """Look at data, which does not change the model. A cut makes the calibration invalid."""
        self._structure = None  # should it fail halfway
        if self.needs_data:
            with calibrating(self.mutator.model):
                self.observe(calibration)
        self._structure = dict(self.mutator.structure)

    def observe(self, calibration: Calibration) -> None:
        """Look at data; the model is in eval mode and gradients are switched off."""

    def score(self, unit: ChannelUnit) -> Tensor:
        """Return ``Tensor[C]``: a score for each present set of tied channels of a unit, in their order.

        Dimensions of heads are scored one by one and ranked in each head, the best first.

        Raises:
            CriterionError: The criterion has seen no data since the last cut.
            UnscorableError: No layer of the unit has what the criterion looks at.
        """
        self.check_calibrated()
        return rank(unit, self.element_scores(by_element(unit)))

    def check_calibrated(self) -> None:
        """Raise CriterionError unless the criterion has seen what it needs of the model as it is."""
        if not self.is_calibrated:
            what = 'has seen no data' if self._structure is None else 'has seen no data since the model was cut'
            raise CriterionError(f'{type(self).__name__} scores channels by data, and {what}: call calibrate first')

    def element_scores(self, unit: ChannelUnit) -> Tensor:
        """Return the scores of a unit whose sets may all go alone."""
        scores = self.member_scores(unit)
        if not scores:
            raise UnscorableError(f'{type(self).__name__} cannot score unit {unit.name!r}: {self.missing(unit)}')
        divide = NORMALIZATIONS[self.normalize]
        tiny = torch.finfo(scores[0].dtype).tiny
        return COMBINATIONS[self.combine](torch.stack([part / divide(part).clamp_min(tiny) for part in scores]))

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return ``Tensor[C]`` for each layer of the unit that counts."""
        raise NotImplementedError

    def unseen(self, unit: ChannelUnit) -> Optional[str]:
        """Return why what layers read of the unit cannot be recorded, None where it can."""
        weight = untapped_weight(self.mutator.model, unit.channels, self.mutator.complexity.graph.calls)
        return weight and (f'{weight!r} reads it outside the conv or linear module that owns it, where nothing can '
                           'be recorded')

    def missing(self, unit: ChannelUnit) -> str:
        """Return what a unit without a score lacks, and what to do about it."""
        return self.lacking

    def adjust(self, masks: Dict[str, np.ndarray]) -> None:
        """Let the weights that stay make up for those that will be removed, before the model is masked or cut.

        Args:
            masks (dict[str, ndarray[sets], bool]): Unit name -> which sets will stay.
        """

    def tensor(self, member: Member) -> Tensor:
        """Return the parameter or buffer that a member of a unit lies on; with weight norm what is computed from it."""
        return effective(self.mutator.model, member.axis.tensor)

    def slices(self, unit: ChannelUnit, member: Member, tensor: Optional[Tensor] = None) -> Tensor:
        """Return the elements of a tensor that belong to each present set of a unit: ``Tensor[C, elements]``.

        Args:
            unit (ChannelUnit): The unit.
            member (Member): Its part on an axis of a tensor.
            tensor (Tensor, optional): By default the member's own; else of the same shape, such as its gradient.
        """
        tensor = self.tensor(member) if tensor is None else tensor
        index = self.mutator.positions(unit, member).to(tensor.device)
        rows = tensor.movedim(member.axis.dim, 0).index_select(0, index.reshape(-1))
        return rows.reshape(len(index), -1)


def build_criterion(criterion: Union[str, Mapping[str, Any], Criterion], mutator: ChannelMutator) -> Criterion:
    """Return a criterion that scores the units of a prepared mutator.

    Args:
        criterion (str, dict or Criterion): Its name, such as ``'FPGM'``, or a dict with the name as ``type`` and its
            arguments.
        mutator (ChannelMutator): Whose units are scored.

    Raises:
        CriterionError: No criterion has that name, or it scores another model.
        UserError: ``criterion`` is none of these types.
    """
    built = make_criterion(criterion)
    if getattr(built, 'mutator', mutator) is not mutator:
        raise CriterionError(f'this {type(built).__name__} scores another model already: make one for each')
    built.bind(mutator)
    return built


def make_criterion(criterion: Union[str, Mapping[str, Any], Criterion]) -> Criterion:
    """Return a criterion that has no model yet; its argument and its errors are those of :func:`build_criterion`."""
    if isinstance(criterion, Criterion):
        return criterion
    if not isinstance(criterion, (str, Mapping)):
        raise UserError(f"criterion is {short(criterion)}; it must be a name, such as 'L2', or a dict with it as type")
    cfg: Dict[str, Any] = dict(type=criterion) if isinstance(criterion, str) else dict(criterion)
    name = str(cfg.get('type')).rpartition('.')[2]
    CRITERIA.import_from_location()
    known = sorted(CRITERIA.module_dict)
    if name not in known:
        raise CriterionError(f'criterion is {name!r}{nearest(name, known)}; it must be one of {", ".join(known)}')
    built: Criterion = build(CRITERIA, {**cfg, 'type': name})
    return built
