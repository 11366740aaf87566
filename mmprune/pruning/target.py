"""How much of a model goes, and which of its channels: scores, targets and floors to masks."""
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

import numpy as np
from torch import Tensor

from ..arguments import UserError, nearest, one_of, share, whole_number
from ..graph.channels import CoupledChannels
from ..units.choice import PatternError, check_patterns, layers_of, matches
from ..units.complexity import COSTS
from ..units.mutator import ChannelMutator
from ..units.selection import Pool, least_classes
from ..units.unit import ChannelUnit

SCOPES = ('global', 'layer')
#: Where scores of all units are compared, nobody has meant to leave less of a unit than this.
GLOBAL_MAX_PRUNED_RATIO, LEAST_CHANNELS = 0.9, 2
#: Steps of the search for the share that every layer loses.
BISECTIONS = 24


class TargetError(UserError):
    """A target is contradictory or cannot be reached; the message says what to change."""


class Chosen(NamedTuple):
    """What a target chose.

    Attributes:
        masks (dict[str, ndarray[classes], bool]): Unit name -> which classes stay.
        held (dict[str, int]): Unit name -> channels that a floor keeps, though others with a higher score went or the
            share of the unit would have them go.
    """

    masks: Dict[str, np.ndarray]
    held: Dict[str, int]


@dataclass
class PruningTarget:
    """How much goes and where it is taken from. All shares are of the dense model.

    Args:
        ratio (float, optional): Share of the channels that goes.
        flops (float, optional): Share of the multiply-adds that stays.
        params (float, optional): Share of the parameters that stays.
        acts (float, optional): Share of the activations that stays.
        scope (str): ``global`` takes the least scores of all units, ``layer`` the same share of each unit.
        levels (dict[str, float], optional): Pattern -> share that goes of the units with a producer that matches, such
            as ``{'conv2d2': 0.5, 'layer4.*': 0.2}``; a later pattern wins. Other units follow the target; without one
            they stay.
        op_types (str or list[str], optional): Only units all of whose producers are modules of these classes, such as
            ``['Conv2d']``.
        max_pruned_ratio (float, optional): Share of a unit that goes at most. By default a tenth of each unit stays,
            two channels at least, where scores of all units are compared, and what ``min_channels`` says elsewhere.
        align (int): Channels of a unit that loses any become a multiple of this; more than its share goes where that
            lies between two multiples.

    Raises:
        TargetError: More than one target, or none; a share that is not between 0 and 1; another value that cannot be.
    """

    ratio: Optional[float] = None
    flops: Optional[float] = None
    params: Optional[float] = None
    acts: Optional[float] = None
    scope: str = 'global'
    levels: Optional[Mapping[str, float]] = None
    op_types: Union[None, str, Sequence[str]] = None
    max_pruned_ratio: Optional[float] = None
    align: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.op_types, str):
            self.op_types = [self.op_types]
        if self.levels is not None and not isinstance(self.levels, Mapping):
            raise TargetError(f"levels is {self.levels!r}; it maps patterns to shares, such as {{'conv2': 0.5}}")
        if len(self.given) > 1:
            raise TargetError(f'{" and ".join(self.given)} are given; a target is one of them')
        if not self.given and not self.levels:
            raise TargetError('there is no target: give ratio (the share of channels that goes), flops, params or acts '
                              '(the share that stays), or levels')
        shares = {**{name: getattr(self, name) for name in self.given},
                  **{f'levels[{pattern!r}]': value for pattern, value in (self.levels or {}).items()}}
        for name, value in shares.items():
            share(name, value, 'it is a share, at least 0 and less than 1', zero=True, error=TargetError)
        if self.max_pruned_ratio is not None:
            share('max_pruned_ratio', self.max_pruned_ratio,
                  'it is the share of a unit that may go, more than 0 and at most 1', one=True, error=TargetError)
        whole_number('align', self.align, must='it is what channels become a multiple of, a whole number of 1 or more',
                     error=TargetError)
        one_of('scope', self.scope, SCOPES, TargetError)

    @property
    def given(self) -> List[str]:
        """What is to be reached: ``ratio``, ``flops``, ``params`` or ``acts``; nothing where only levels say it."""
        return [name for name in ('ratio', *COSTS) if getattr(self, name) is not None]

    @classmethod
    def of(cls, target: Union['PruningTarget', Mapping[str, Any]], scope: str = 'global') -> 'PruningTarget':
        """Return the target of a config.

        Args:
            target (dict or PruningTarget): The target, or its arguments.
            scope (str): Where the arguments name none.

        Raises:
            TargetError: An argument is unknown.
        """
        if isinstance(target, PruningTarget):
            return target
        for name in target:
            if name not in cls.__dataclass_fields__:
                raise TargetError(f'target has no {name!r}{nearest(name, list(cls.__dataclass_fields__))}; it takes '
                                  f'{", ".join(cls.__dataclass_fields__)}')
        return cls(**{'scope': scope, **target})

    def choose(self, mutator: ChannelMutator, scores: Mapping[str, Tensor], progress: float = 1.0) -> Chosen:
        """Return which classes stay.

        Args:
            mutator (ChannelMutator): Whose units they are; it is not changed.
            scores (dict[str, Tensor[C]]): Unit name -> a score for each class that is there at present. Units without
                one stay as they are.
            progress (float): Share of the way from the dense model to the target, for several rounds.

        Raises:
            TargetError: The floors do not let the target be reached.
            PatternError: A pattern of ``levels`` matches no layer, or ``op_types`` no unit.
            NotFiniteError: A score is NaN, or all of a unit are infinite.
        """
        units = [unit for unit in self.chosen_units(mutator) if unit.name in scores]
        levels = self.levels_of(mutator)
        pools = {unit.name: self._pool(unit, scores[unit.name], unit.name in levels) for unit in units}
        masks: Dict[str, np.ndarray] = {unit.name: unit.kept.copy() for unit in mutator.units}
        held = {unit.name: self._take_share(unit, pools[unit.name], levels[unit.name] * progress, masks)
                for unit in units if unit.name in levels}
        rest = [unit for unit in units if unit.name not in levels]
        if self.scope == 'layer':
            held.update(self._by_layer(mutator, rest, pools, masks, progress))
        else:
            self._by_score(mutator, rest, pools, masks, progress)
            held.update(_held(rest, pools, masks))
        return Chosen(masks, {unit.name: held[unit.name] * unit.multiplicity for unit in units if held.get(unit.name)})

    def chosen_units(self, mutator: ChannelMutator) -> List[ChannelUnit]:
        """Return the units that ``op_types`` lets be pruned.

        Raises:
            PatternError: None of them.
        """
        if self.op_types is None:
            return list(mutator.units)
        kinds = {unit.name: {type(mutator.model.get_submodule(member.axis.layer)) for member in unit.channels.producers}
                 for unit in mutator.units}
        wanted = set(self.op_types)
        units = [unit for unit in mutator.units
                 if all(wanted & {base.__name__ for base in kind.__mro__} for kind in kinds[unit.name])]
        if not units:
            there = sorted({kind.__name__ for several in kinds.values() for kind in several})
            raise PatternError(f'op_types: no unit is produced by {" or ".join(self.op_types)} only; producers are '
                               f'{", ".join(there)}')
        return units

    def levels_of(self, mutator: ChannelMutator) -> Dict[str, float]:
        """Return unit name -> share that goes, of the units that ``levels`` names.

        Raises:
            PatternError: A pattern matches no layer, or none that produces channels that may be pruned.
        """
        removed = [unit.channels for unit in mutator.removed]
        check_patterns('levels', self.levels or {},
                       layers_of([*(unit.channels for unit in mutator.units), *removed, *mutator.frozen]))
        found: Dict[str, float] = {}
        for pattern, goes in (self.levels or {}).items():
            named = {unit.name: goes for unit in self.chosen_units(mutator) if _is_produced_by(unit.channels, pattern)}
            if not named and goes and not any(_is_produced_by(channels, pattern) for channels in removed):
                reason = next((channels.frozen for channels in mutator.frozen if _is_produced_by(channels, pattern)),
                              f'op_types={self.op_types} leaves them out')
                raise PatternError(f'levels: what {pattern!r} produces cannot be pruned: {reason}')
            found.update(named)
        return found

    def prunes(self, mutator: ChannelMutator, unit: ChannelUnit) -> bool:
        """Tell whether a unit may lose channels, whatever the scores are."""
        if all(unit is not other for other in self.chosen_units(mutator)):
            return False
        share = self.levels_of(mutator).get(unit.name, self.ratio)
        return bool(share) or (share is None and self._cost_name() is not None)

    def floor(self, unit: ChannelUnit, share_is_given: bool = False) -> int:
        """Return how many classes of a unit stay at least.

        Args:
            unit (ChannelUnit): The unit.
            share_is_given (bool): The share that goes of this very unit is given, by ``levels`` or the layer scope.
        """
        if self.max_pruned_ratio is not None:
            least = math.ceil((1 - self.max_pruned_ratio) * len(unit.kept) - 1e-9)
        elif share_is_given or self.scope == 'layer':
            least = 1
        else:
            least = max(math.ceil(LEAST_CHANNELS / unit.multiplicity),
                        math.ceil((1 - GLOBAL_MAX_PRUNED_RATIO) * len(unit.kept) - 1e-9))
        return max(unit.min_classes, least)

    def _pool(self, unit: ChannelUnit, scores: Tensor, share_is_given: bool) -> Pool:
        return pool_of(unit, scores, self.floor(unit, share_is_given),
                       self.align // math.gcd(self.align, unit.multiplicity))

    def _take_share(self, unit: ChannelUnit, pool: Pool, share: float, masks: Dict[str, np.ndarray]) -> int:
        """Drop classes of a unit until the share of its dense classes is gone; return how many its floor keeps."""
        count = int(share * len(unit.kept) + 1e-9) - int((~unit.kept).sum())
        masks[unit.name] = unit.kept.copy()
        pruned = least_classes([pool], count) if count > 0 else []
        _drop(pruned, masks)
        return max(0, count - len(pruned))

    def _by_layer(self, mutator: ChannelMutator, units: Sequence[ChannelUnit], pools: Mapping[str, Pool],
                  masks: Dict[str, np.ndarray], progress: float) -> Dict[str, int]:
        def take(share: float) -> Dict[str, int]:
            return {unit.name: self._take_share(unit, pools[unit.name], share, masks) for unit in units}

        if self.ratio is not None:
            return take(self.ratio * progress)
        if self._cost_name():
            low, high = 0.0, 1.0
            take(high)
            self._reach(mutator, masks, progress, len(mutator.units) - len(pools))
            for _ in range(BISECTIONS):
                share = (low + high) / 2
                take(share)
                low, high = (low, share) if self._is_met(mutator, masks, progress) else (share, high)
            held = take(high)
            self._give_back(mutator, units, pools, masks, progress, low)
            return held
        return {}

    def _give_back(self, mutator: ChannelMutator, units: Sequence[ChannelUnit], pools: Mapping[str, Pool],
                   masks: Dict[str, np.ndarray], progress: float, share: float) -> None:
        """Let units lose the slightly smaller share that misses the target, one by one, as long as it is still met.

        Units of widths like 16, 32 and 64 all lose one channel more at the same share.
        """
        for unit in units:
            fewer = dict(masks)
            self._take_share(unit, pools[unit.name], share, fewer)
            if self._is_met(mutator, fewer, progress):
                masks[unit.name] = fewer[unit.name]

    def _by_score(self, mutator: ChannelMutator, units: Sequence[ChannelUnit], pools: Mapping[str, Pool],
                  masks: Dict[str, np.ndarray], progress: float) -> None:
        several = [pools[unit.name] for unit in units]

        def take(count: int) -> None:
            for unit in units:
                masks[unit.name] = unit.kept.copy()
            if count > 0:
                _drop(least_classes(several, count), masks)

        def is_enough() -> bool:
            if self.ratio is None:
                return self._is_met(mutator, masks, progress)
            gone = sum(int((~masks[unit.name]).sum()) * unit.multiplicity for unit in units)
            return gone >= int(self.ratio * progress * sum(unit.width for unit in units) + 1e-9)

        if self.ratio is None and self._cost_name() is None:
            return
        low, high = 0, sum(pool.spare for pool in several)
        take(high)
        if self.ratio is None:
            self._reach(mutator, masks, progress, len(mutator.units) - len(pools))
        while low < high:
            count = (low + high) // 2
            take(count)
            low, high = (low, count) if is_enough() else (count + 1, high)
        take(high)

    @property
    def _max_pruned_ratio(self) -> float:
        return self.max_pruned_ratio or (1.0 if self.scope == 'layer' else GLOBAL_MAX_PRUNED_RATIO)

    def _cost_name(self) -> Optional[str]:
        return next((name for name in self.given if name in COSTS), None)

    def _share_of_cost(self, mutator: ChannelMutator, masks: Mapping[str, np.ndarray]) -> float:
        cost = COSTS[self._cost_name() or '']
        complexity = mutator.complexity
        return complexity.cost(mutator.surgery.widths_with(masks))[cost] / complexity.cost({})[cost]

    def _is_met(self, mutator: ChannelMutator, masks: Mapping[str, np.ndarray], progress: float) -> bool:
        wanted = getattr(self, self._cost_name() or '')
        return bool(self._share_of_cost(mutator, masks) <= 1 - (1 - wanted) * progress + 1e-12)

    def _reach(self, mutator: ChannelMutator, masks: Mapping[str, np.ndarray], progress: float, unscored: int) -> None:
        """Raise TargetError unless the masks, which take all that may go, meet the target."""
        if not self._is_met(mutator, masks, progress):
            name = self._cost_name() or ''
            others = f', {unscored} units have no score or are left out by op_types' if unscored else ''
            raise TargetError(
                f'{name}={getattr(self, name)} cannot be reached: {self._share_of_cost(mutator, masks):.3f} of the '
                f'dense {name} stay when every unit is at its floor (min_channels, max_pruned_ratio='
                f'{self._max_pruned_ratio}, align={self.align}; {len(mutator.frozen)} groups of channels are frozen'
                f'{others}). Raise the target, lower the floors, or let more units be pruned (mutate_linear, include, '
                'levels)')


def pool_of(unit: ChannelUnit, scores: Tensor, floor: int, block: int = 1) -> Pool:
    """Return what a unit has to offer.

    Args:
        unit (ChannelUnit): The unit.
        scores (Tensor[C]): Of the classes that are there at present.
        floor (int): Classes that stay at least.
        block (int): Classes that go together.
    """
    values: np.ndarray = np.full(len(unit.kept), np.inf)
    values[unit.kept] = scores.detach().double().cpu().numpy()
    return Pool(unit.name, values, max(0, unit.num_classes - floor), unit.num_classes, block)


def _drop(pruned: Sequence[Any], masks: Dict[str, np.ndarray]) -> None:
    for one in pruned:
        masks[one.unit][one.channel] = False


def _is_produced_by(channels: CoupledChannels, pattern: str) -> bool:
    return any(matches(member.axis.layer, pattern) for member in channels.producers)


def _held(units: Sequence[ChannelUnit], pools: Mapping[str, Pool], masks: Mapping[str, np.ndarray]) -> Dict[str, int]:
    """Return how many classes a floor kept in each unit although classes with higher scores went elsewhere."""
    gone = {unit.name: unit.kept & ~masks[unit.name] for unit in units}
    highest = max((float(pools[name].scores[classes].max()) for name, classes in gone.items() if classes.any()),
                  default=-math.inf)
    counts: Dict[str, int] = {}
    for name, classes in gone.items():
        pool, dropped = pools[name], int(classes.sum())
        following = pool.block if dropped else pool.present % pool.block or pool.block
        if dropped + following > pool.spare:  # at its floor
            counts[name] = int((masks[name] & (pool.scores < highest)).sum())
    return counts
