"""What a user lets be pruned, and how far: patterns over module names."""
import math
from fnmatch import fnmatchcase
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Union

from ..arguments import UserError, nearest, one_of, share, typed, whole_number
from ..graph.channels import CoupledChannels

Patterns = Union[str, Sequence[str]]
#: Arguments of :class:`Choice`.
CHOICE = ('include', 'exclude', 'min_channels', 'attention', 'stream')
#: What becomes of the channels between the blocks of a transformer: pruned so that norms count removed ones as zeros,
#: pruned with plain norms over what is left, or left whole.
STREAMS = ('exact', 'kept', 'whole')
#: Channels that stay at least: how many, or which share of those that the dense unit has.
Floor = Union[int, float]


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
        min_channels (int, float or dict[str, int or float]): Channels that stay at least, for every unit or by
            pattern: a whole number of them, or a share between 0 and 1 of those that the dense unit has.
        attention (bool): Prune the heads of transformers, and their dimensions.
        stream (str): One of :data:`STREAMS`: ``exact``, which is equal to the masked model, ``kept``, whose norms know
            only what is left (faster, and no longer equal), or ``whole``.

    Raises:
        UserError: ``min_channels`` is neither a positive whole number nor a share, or ``stream`` is none of these.
    """

    @typed
    def __init__(self, include: Optional[Patterns] = None, exclude: Optional[Patterns] = None,
                 min_channels: Union[Floor, Mapping[str, Floor]] = 1, attention: bool = True,
                 stream: str = 'exact') -> None:
        self.attention, self.stream = attention, one_of('stream', stream, STREAMS)
        self.include = None if include is None else _as_list(include)
        self.exclude = [] if exclude is None else _as_list(exclude)
        self.min_channels = dict(min_channels) if isinstance(min_channels, Mapping) else {'*': min_channels}
        for pattern, floor in self.min_channels.items():
            _check_floor(f'min_channels of {pattern!r}', floor)

    def check(self, layers: Sequence[str]) -> None:
        """Check all patterns; see :func:`check_patterns`.

        Raises:
            PatternError: A pattern matches no layer; the message lists near names.
        """
        for option, patterns in (('include', self.include or []), ('exclude', self.exclude),
                                 ('min_channels', self.min_channels)):
            check_patterns(option, patterns, layers)

    def reason_to_freeze(self, channels: CoupledChannels) -> Optional[str]:
        """Return why the choice does not let a unit be pruned, or None."""
        if channels.part and not self.attention:
            return 'it is excluded: heads and their dimensions stay (attention=False)'
        if self.stream == 'whole' and not channels.part and any(one.axis.across for one in channels.members):
            return "it is excluded: the stream stays (stream='whole')"
        for layer in producers_of(channels):
            pattern = next((pattern for pattern in self.exclude if matches(layer, pattern)), None)
            if pattern is not None:
                return f'its producer {layer!r} is excluded (exclude={pattern!r})'
            if self.include is not None and not any(matches(layer, pattern) for pattern in self.include):
                return f'its producer {layer!r} is not among those to prune (include={self.include})'
        return None

    def min_channels_of(self, channels: CoupledChannels) -> int:
        """Return the least number of channels of a unit that stay, the largest of the patterns that match."""
        return max((_channels_of(floor, channels.width) for pattern, floor in self.min_channels.items()
                    if some_match(channels, [pattern])), default=1)


def _check_floor(option: str, floor: Floor) -> None:
    must = 'it must be a whole number of channels of 1 or more, or a share of them between 0 and 1'
    if isinstance(floor, float):
        share(option, floor, must)
    else:
        whole_number(option, floor, must=must)


def _channels_of(floor: Floor, width: int) -> int:
    """Return how many channels of a unit a floor keeps."""
    return math.ceil(floor * width - 1e-9) if isinstance(floor, float) else floor


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
