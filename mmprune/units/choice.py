"""What a user lets be pruned, and how far: patterns over module names."""
from fnmatch import fnmatchcase
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Union

from ..arguments import UserError, nearest, whole_number
from ..graph.channels import CoupledChannels
from ..typed import typed

Patterns = Union[str, Sequence[str]]
#: Arguments of :class:`Choice`.
CHOICE = ('include', 'exclude', 'min_channels')


class PatternError(UserError):
    """A pattern matches no layer."""


def matches(layer: str, pattern: str) -> bool:
    """Tell whether a pattern, with ``*`` for anything, is the name of a layer or of a module around it."""
    return any(fnmatchcase(name, pattern) for name in _with_parents(layer))


def producers_of(channels: CoupledChannels) -> List[str]:
    """Return the layers that produce channels, which patterns are compared with."""
    return list(dict.fromkeys(member.axis.layer for member in channels.producers))


def some_match(channels: CoupledChannels, patterns: Iterable[str]) -> bool:
    """Tell whether a producer of the channels matches one of the patterns."""
    return any(matches(layer, pattern) for pattern in patterns for layer in producers_of(channels))


def all_match(channels: CoupledChannels, patterns: Iterable[str]) -> bool:
    """Tell whether every producer of the channels matches one of the patterns."""
    patterns = list(patterns)
    return all(any(matches(layer, pattern) for pattern in patterns) for layer in producers_of(channels))


def check_patterns(option: str, patterns: Iterable[str], layers: Sequence[str]) -> None:
    """Check that every pattern but ``*`` matches a layer.

    Args:
        option (str): Name of the option, for the error message.
        patterns (iterable[str]): The patterns.
        layers (list[str]): Names of all conv and linear layers.

    Raises:
        PatternError: A pattern matches no layer; the message lists near names.
    """
    for pattern in patterns:
        if pattern != '*' and not any(matches(layer, pattern) for layer in layers):
            names: Set[str] = {name for layer in layers for name in _with_parents(layer)}
            raise PatternError(f'{option}: no conv or linear layer matches {pattern!r}'
                               f'{nearest(pattern.strip("*."), sorted(names))} (patterns are names of modules, with * '
                               'for anything, such as "backbone.layer1" or "*.downsample")')


def _with_parents(layer: str) -> Iterator[str]:
    parts = layer.split('.')
    return ('.'.join(parts[:count]) for count in range(len(parts), 0, -1))


class Choice:
    """Patterns over the layers that produce a unit's channels: which units may be pruned, and how far.

    Args:
        include (str or list[str], optional): Only units all of whose producers match are pruned.
        exclude (str or list[str], optional): Units with a producer that matches are not pruned.
        min_channels (int or dict[str, int]): Least number of channels that stay, for every unit or by pattern.

    Raises:
        UserError: ``min_channels`` is not a positive whole number.
    """

    @typed
    def __init__(self, include: Optional[Patterns] = None, exclude: Optional[Patterns] = None,
                 min_channels: Union[int, Mapping[str, int]] = 1) -> None:
        self.include = None if include is None else _as_list(include)
        self.exclude = [] if exclude is None else _as_list(exclude)
        self.min_channels = dict(min_channels) if isinstance(min_channels, Mapping) else {'*': min_channels}
        for pattern, count in self.min_channels.items():
            whole_number(f'min_channels of {pattern!r}', count)

    def check(self, layers: Sequence[str]) -> None:
        """Check all patterns; see :func:`check_patterns`.

        Raises:
            PatternError: A pattern matches no layer; the message lists near names.
        """
        for option, patterns in (('include', self.include or []), ('exclude', self.exclude),
                                 ('min_channels', self.min_channels)):
            check_patterns(option, patterns, layers)

    def reason_to_freeze(self, channels: CoupledChannels) -> Optional[str]:
        """Return why the patterns do not let a unit be pruned, or None."""
        for layer in producers_of(channels):
            pattern = next((pattern for pattern in self.exclude if matches(layer, pattern)), None)
            if pattern is not None:
                return f'its producer {layer!r} is excluded (exclude={pattern!r})'
            if self.include is not None and not any(matches(layer, pattern) for pattern in self.include):
                return f'its producer {layer!r} is not among those to prune (include={self.include})'
        return None

    def min_channels_of(self, channels: CoupledChannels) -> int:
        """Return the least number of channels of a unit that stay, the largest of the patterns that match."""
        return max((count for pattern, count in self.min_channels.items() if some_match(channels, [pattern])),
                   default=1)


def check_choice(choice: Mapping[str, Any]) -> None:
    """Raise UserError unless these are arguments of :class:`Choice`, as in the option ``choice``."""
    for name in choice:
        if name not in CHOICE:
            raise UserError(f'choice has no {name!r}{nearest(name, CHOICE)}; it takes {", ".join(CHOICE)}')
    Choice(**choice)


def _as_list(patterns: Patterns) -> List[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def layers_of(groups: Sequence[CoupledChannels]) -> List[str]:
    """Return the names of all conv and linear layers of the groups, each once."""
    return list(dict.fromkeys(member.axis.layer for group in groups for member in [*group.producers, *group.consumers]))
