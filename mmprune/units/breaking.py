"""Which units break a trial cut: where it fails is tried first, and modules of one class together."""
from typing import Collection, Dict, List, Optional, Sequence, Tuple

from mmengine.logging import print_log
from torch import nn

from .trial import Failure, TrialCut, TrialInput
from .unit import ChannelUnit

#: Forwards of a search; counted, since ranks and resumed runs must find the same units.
MOST_FORWARDS = 120
#: Class of a module, and the names of a unit's layers inside it.
Role = Tuple[str, Tuple[str, ...]]


def breaking_units(model: nn.Module, units: Sequence[ChannelUnit], demo_input: TrialInput,
                   proven: Collection[str] = (), most_forwards: int = MOST_FORWARDS) -> Dict[str, str]:
    """Cut half of every unit of a copy at random and find the units whose cut is not exact.

    Args:
        model (nn.Module): The dense model; neither it nor its units are changed.
        units (list[ChannelUnit]): Its units.
        demo_input (TrialInput): How to run it.
        proven (collection[str]): Names of units that are not tested, since an earlier trial has passed them.
        most_forwards (int): Forwards after which the units that are not proven are given up.

    Returns:
        dict[str, str]: Unit name -> what its cut breaks; all other units can be cut together.
    """
    unproven = [unit for unit in units if unit.name not in proven]
    if not unproven:
        return {}
    trial = TrialCut(model, units, demo_input)
    failure = trial.failure(unproven)
    return {} if failure is None else _Search(model, trial, most_forwards).run(unproven, failure)


class _Search:
    """Splits units into those that can be cut together and those that break the model."""

    def __init__(self, model: nn.Module, trial: TrialCut, most_forwards: int) -> None:
        self.model, self.trial, self.limit = model, trial, most_forwards
        self.good: List[ChannelUnit] = []
        self.broken: Dict[str, str] = {}

    def run(self, units: Sequence[ChannelUnit], failure: Optional[Failure]) -> Dict[str, str]:
        """Return unit name -> what its cut breaks."""
        assert failure is not None
        if len(units) == 1:
            return {units[0].name: failure.message}
        print_log(f'the trial cut fails ({failure.message}); looking for the units that break it, in {self.limit} '
                  'forwards at most', logger='current')
        pool, aside = list(units), []
        while failure is not None and pool:
            suspects = self._suspects(pool, failure.module)
            aside += suspects
            names = {unit.name for unit in suspects}
            pool = [unit for unit in pool if unit.name not in names]
            failure = self._failure(pool)
        self.good = pool
        roles: Dict[Role, List[ChannelUnit]] = {}
        for unit in aside:
            roles.setdefault(self._role(unit), []).append(unit)
        failing = self._add(list(roles.values()))
        for group, failure in failing:  # when all kinds of units that can be cut together are known
            self._split(group, failure)
        print_log(f'{len(self.broken)} of {len(units)} units stay whole, found in {self.trial.forwards} forwards',
                  logger='current')
        return self.broken

    def _failure(self, units: Sequence[ChannelUnit]) -> Optional[Failure]:
        if self.trial.forwards >= self.limit:
            return Failure(f'the trial cut was given up after {self.limit} forwards, before this unit was tried', None)
        return self.trial.failure(units) if units else None

    def _suspects(self, pool: Sequence[ChannelUnit], place: Optional[str]) -> List[ChannelUnit]:
        """Return the units that touch modules of the class in which a cut failed; half of all where none does."""
        while place:
            kind = type(self.model.get_submodule(place))
            found = _touching(pool, [name for name, module in self.model.named_modules() if type(module) is kind])
            if found:
                return found
            place = place.rpartition('.')[0]
        return list(pool[len(pool) // 2:])

    def _role(self, unit: ChannelUnit) -> Role:
        """Return the class of the module that holds a unit's first layer, and its layers' names in such modules."""
        holder, _, _ = unit.channels.first.axis.layer.rpartition('.')
        layers = tuple(sorted({layer.rpartition('.')[2] for layer in _layers(unit)}))
        return type(self.model.get_submodule(holder)).__name__, layers

    def _add(self, groups: Sequence[List[ChannelUnit]]) -> List[Tuple[List[ChannelUnit], Failure]]:
        """Add groups of units to the good ones; return those with which the model is no longer what it is."""
        failure = self._failure([*self.good, *(unit for group in groups for unit in group)])
        if failure is None:
            self.good.extend(unit for group in groups for unit in group)
            return []
        if len(groups) > 1:
            half = len(groups) // 2
            return [*self._add(groups[:half]), *self._add(groups[half:])]
        return [(group, failure) for group in groups]

    def _split(self, units: List[ChannelUnit], failure: Failure) -> None:
        """Split a group that fails into units that can be cut and units that break the model."""
        if len(units) == 1 or self.trial.forwards >= self.limit:
            self.broken.update((unit.name, failure.message) for unit in units)
            return
        first, rest = _parts(units, failure)
        found = self._failure([*self.good, *first])
        if found is None:
            self.good.extend(first)
            self._split(rest, failure)  # it is the rest that fails
            return
        self._split(first, found)
        found = self._failure([*self.good, *rest])
        if found is None:
            self.good.extend(rest)
        else:
            self._split(rest, found)


def _parts(units: List[ChannelUnit], failure: Failure) -> Tuple[List[ChannelUnit], List[ChannelUnit]]:
    """Return the units that touch the module in which a cut has failed and the others; halves where these are none."""
    inside = _touching(units, [failure.module] if failure.module else [])
    names = {unit.name for unit in inside}
    if 0 < len(inside) < len(units):
        return inside, [unit for unit in units if unit.name not in names]
    return units[:len(units) // 2], units[len(units) // 2:]


def _touching(units: Sequence[ChannelUnit], modules: Sequence[str]) -> List[ChannelUnit]:
    """Return the units with a layer inside one of the modules."""
    prefixes = tuple(f'{module}.' for module in modules)
    return [unit for unit in units if any(layer.startswith(prefixes) for layer in _layers(unit))]


def _layers(unit: ChannelUnit) -> List[str]:
    return [member.axis.layer for member in [*unit.channels.producers, *unit.channels.consumers]]
