"""The target of pruning: how much is removed, from which units, and what stays at least."""
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from ..arguments import LARGEST_BLOCK, UserError, nearest, number, one_of, share, short, whole_number
from ..latency.block import AUTO
from ..units.choice import PatternError, check_patterns, producers_of, some_match
from ..units.complexity import COSTS
from ..units.mutator import ChannelMutator
from ..units.unit import ChannelUnit

SCOPES = ('global', 'layer')
#: Targets in time.
LATENCIES = ('latency', 'latency_ms')
#: Floors of the global scope: scores alone must not remove more of a unit than this.
GLOBAL_MAX_PRUNED_RATIO, LEAST_CHANNELS = 0.9, 2


class TargetError(UserError):
    """A target is contradictory or cannot be reached; the message says what to change."""


@dataclass
class PruningTarget:
    """How much is removed, and from which units. All shares are of the dense model.

    Args:
        ratio (float, optional): Share of the channels that is removed.
        flops (float, optional): Share of the multiply-adds that stays.
        params (float, optional): Share of the parameters that stays.
        acts (float, optional): Share of the activations that stays.
        latency (float, optional): Share of the dense model's time that stays; where it is measured is said beside the
            target (``runtime``). ``flops``, ``params`` and ``acts`` given with it are further bounds.
        latency_ms (float, optional): The same in milliseconds.
        scope (str): ``global`` removes the lowest scores of all units, ``layer`` the same share of each unit.
        levels (dict[str, float], optional): Pattern -> share removed of the units with a producer that matches, such
            as ``{'conv2d2': 0.5, 'layer4.*': 0.2}``; a later pattern wins. Other units follow the target, if any.
        op_types (str or list[str], optional): Only units all of whose producers are modules of these classes, such as
            ``['Conv2d']``.
        max_pruned_ratio (float, optional): Share of a unit that is removed at most. By default a tenth of each unit and
            two channels stay in the global scope, else ``min_channels`` of :class:`~mmprune.units.choice.Choice`.
        align (int or str): A unit that loses channels keeps a multiple of this; it loses more where its share is
            between two, and gets blocks back that a target of costs is met without. ``auto`` is the block that the
            runtime was measured to compute together.

    Raises:
        TargetError: Targets that exclude each other, or none; a share that is not between 0 and 1; another invalid
            value.
    """

    ratio: Optional[float] = None
    flops: Optional[float] = None
    params: Optional[float] = None
    acts: Optional[float] = None
    latency: Optional[float] = None
    latency_ms: Optional[float] = None
    scope: str = 'global'
    levels: Optional[Mapping[str, float]] = None
    op_types: Union[None, str, Sequence[str]] = None
    max_pruned_ratio: Optional[float] = None
    align: Union[int, str] = 1

    def __post_init__(self) -> None:
        if isinstance(self.op_types, str):
            self.op_types = [self.op_types]
        if self.op_types is not None and not (isinstance(self.op_types, (list, tuple)) and self.op_types and all(
                isinstance(kind, str) for kind in self.op_types)):
            raise TargetError(f"op_types is {short(self.op_types)}; it must be a list of classes, such as ['Conv2d']")
        if self.levels is not None and not isinstance(self.levels, Mapping):
            raise TargetError(f"levels is {self.levels!r}; it maps patterns to shares, such as {{'conv2': 0.5}}")
        self._check_given()
        shares = {**{name: getattr(self, name) for name in self.given if name != 'latency_ms'},
                  **{f'levels[{pattern!r}]': value for pattern, value in (self.levels or {}).items()}}
        for name, value in shares.items():
            share(name, value, 'it is a share, at least 0 and less than 1', zero=True, error=TargetError)
        if self.max_pruned_ratio is not None:
            share('max_pruned_ratio', self.max_pruned_ratio,
                  'it is the share of a unit that may go, more than 0 and at most 1', one=True, error=TargetError)
        if self.align != AUTO:
            whole_number('align', self.align, must='it is what channels become a multiple of, a whole number from 1 to '
                         f'{LARGEST_BLOCK} or {AUTO!r}', error=TargetError, most=LARGEST_BLOCK)
        one_of('scope', self.scope, SCOPES, TargetError)

    def _check_given(self) -> None:
        """Raise TargetError unless there is a target, and what is given goes together."""
        given = self.given
        if not given and not self.levels:
            raise TargetError('there is no target: give ratio (the share of channels that goes), latency, flops, '
                              'params or acts (the share that stays), latency_ms, or levels')
        if {*LATENCIES} <= {*given}:
            raise TargetError('latency and latency_ms are given; a target is one of them')
        if len(given) > 1 and (not self.needs_latency or 'ratio' in given):
            raise TargetError(f'{" and ".join(given)} are given; a target is one of them, or a latency with bounds on '
                              f'{", ".join(COSTS)}')
        if self.latency_ms is not None:
            number('latency_ms', self.latency_ms, 0, 1e7, 'it is a time in milliseconds', above=True, error=TargetError)

    @property
    def given(self) -> List[str]:
        """Which of ratio, the latencies, flops, params and acts are given; none where only ``levels`` is."""
        return [name for name in ('ratio', *LATENCIES, *COSTS) if getattr(self, name) is not None]

    @property
    def needs_latency(self) -> bool:
        """Whether the target is a time, so that a latency table is needed."""
        return self.latency is not None or self.latency_ms is not None

    @property
    def needs_runtime(self) -> bool:
        """Whether something has to be measured: a time, or the block of ``align``."""
        return self.needs_latency or self.align == AUTO

    @property
    def bounds(self) -> Dict[str, float]:
        """Cost -> share of the dense model's that stays at most, of those given: ``flops``, ``params``, ``acts``."""
        return {name: getattr(self, name) for name in COSTS if getattr(self, name) is not None}

    @classmethod
    def of(cls, target: Union['PruningTarget', Mapping[str, Any]], scope: str = 'global') -> 'PruningTarget':
        """Return a target, or make it from its arguments, whose default scope is given.

        Raises:
            TargetError: An argument is unknown.
        """
        if isinstance(target, PruningTarget):
            return target
        for name in target:
            if name not in cls.__dataclass_fields__:
                raise TargetError(f'target has no {name!r}{nearest(name, list(cls.__dataclass_fields__))}; it takes '
                                  f'{", ".join(cls.__dataclass_fields__)}')
        is_time = any(target.get(name) is not None for name in LATENCIES)
        return cls(**{'scope': 'global' if is_time else scope, **target})

    def chosen_units(self, mutator: ChannelMutator) -> List[ChannelUnit]:
        """Return the units that ``op_types`` lets be pruned.

        Raises:
            PatternError: No unit is produced by these classes only.
        """
        if self.op_types is None:
            return list(mutator.units)
        kinds = {unit.name: {type(mutator.model.get_submodule(layer)) for layer in producers_of(unit.channels)}
                 for unit in mutator.units}
        wanted = set(self.op_types)
        units = [unit for unit in mutator.units
                 if all(wanted & {base.__name__ for base in kind.__mro__} for kind in kinds[unit.name])]
        if not units:
            known = sorted({kind.__name__ for several in kinds.values() for kind in several})
            raise PatternError(f'op_types: no unit is produced by {" or ".join(self.op_types)} only; producers are '
                               f'{", ".join(known)}')
        return units

    def levels_of(self, mutator: ChannelMutator) -> Dict[str, float]:
        """Return unit name -> share that is removed, of the units that ``levels`` names.

        Raises:
            PatternError: A pattern matches no layer, or none that produces channels that may be pruned.
        """
        check_patterns('levels', self.levels or {}, mutator.layers)
        found: Dict[str, float] = {}
        for pattern, level in (self.levels or {}).items():
            named = {unit.name: level for unit in self.chosen_units(mutator) if some_match(unit.channels, [pattern])}
            if not named and level and not any(some_match(unit.channels, [pattern]) for unit in mutator.removed):
                reason = next((channels.reason for channels in mutator.frozen if some_match(channels, [pattern])),
                              f'op_types={self.op_types} leaves them out')
                raise PatternError(f'levels: what {pattern!r} produces cannot be pruned: {reason}')
            found.update(named)
        return found

    def check(self, mutator: ChannelMutator) -> None:
        """Check that all patterns match.

        Raises:
            PatternError: A pattern or class matches nothing.
        """
        self.chosen_units(mutator)
        self.levels_of(mutator)

    def prunes(self, mutator: ChannelMutator, unit: ChannelUnit) -> bool:
        """Tell whether a unit may lose channels, whatever the scores are."""
        if all(unit is not other for other in self.chosen_units(mutator)):
            return False
        removed = self.levels_of(mutator).get(unit.name, self.ratio)
        return bool(removed) or (removed is None and bool(self.bounds or self.needs_latency))

    def floor(self, unit: ChannelUnit, share_is_given: bool = False) -> int:
        """Return how many sets of a unit stay at least; ``share_is_given`` if ``levels`` names this unit."""
        if self.max_pruned_ratio is not None:
            least = math.ceil((1 - self.max_pruned_ratio) * len(unit.kept) - 1e-9)
        elif share_is_given or self.scope == 'layer':
            least = 1
        else:
            least = max(math.ceil(LEAST_CHANNELS / unit.multiplicity),
                        math.ceil((1 - GLOBAL_MAX_PRUNED_RATIO) * len(unit.kept) - 1e-9))
        return max(unit.min_sets, least)
