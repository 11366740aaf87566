"""What users give: types, whole numbers, shares, known names; and the error that says what was wrong and what to do."""
import collections.abc
import difflib
import functools
import importlib
import inspect
import logging
import math
import os
from typing import (
    Any,
    Callable,
    Collection,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

Value = TypeVar('Value')
Function = TypeVar('Function', bound=Callable[..., Any])
#: What a type is called in a message.
NAMES = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'text', type(None): 'None',
         nn.Module: 'an nn.Module'}

MANY = {int: 'whole numbers', float: 'numbers', str: 'texts'}

#: Elements of the largest input that is traced or exported: a typing mistake must not take all memory.
LARGEST_INPUT = 2**28
#: Largest divisor, and block of channels, that makes sense on any device.
LARGEST_BLOCK = 1024
#: Threads that one run may have.
MOST_THREADS = 1024


class UserError(ValueError):
    """A mistake of a user: the message is all that he needs, so the command line prints it and nothing else."""


class WrongTypeError(UserError, TypeError):
    """A value is not of the type that is wanted."""


class MissingPackageError(UserError, ImportError):
    """A package that only some need is not installed."""


def optional_package(name: str, install: str = '') -> Any:
    """Import a package that only some need.

    Args:
        name (str): The package.
        install (str): What to install for it, if that is more than the package.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(f'{name} is not installed: pip install {install or name}') from error


def whole_number(option: str, value: Any, least: int = 1, must: Optional[str] = None,
                 error: Type[UserError] = UserError, most: Optional[int] = None) -> int:
    """Return a value that is a whole number within its bounds.

    Args:
        option (str): What the value is given for.
        value (Any): The value; booleans are no numbers.
        least (int): The least number that is allowed.
        must (str, optional): What it is and must be, for the message.
        error (type): Raised if it is something else.
        most (int, optional): The largest number that is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        bounds = f'of {least} or more' if most is None else f'from {least} to {most:,}'
        raise error(f'{option} is {short(value)}; {must or f"it must be a whole number {bounds}"}')
    return value


def number(option: str, value: Any, least: float, most: float, must: Optional[str] = None,
           above: bool = False, error: Type[UserError] = UserError) -> float:
    """Return a value that is a number within its bounds.

    Args:
        option (str): What the value is given for.
        value (Any): The value; booleans are no numbers.
        least (float): The least number that is allowed.
        most (float): The largest number that is allowed.
        must (str, optional): What it is, for the message.
        above (bool): The least number itself is not allowed.
        error (type): Raised.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (above and value == least):
        bounds = f'{"more than" if above else "from"} {least:g} {"and at most" if above else "to"} {most:g}'
        raise error(f'{option} is {short(value)}; {f"{must}, so " if must else ""}it must be a number, {bounds}')
    return value


def check_divisor(divisor: Any) -> None:
    """Raise UserError unless a divisor is a whole number of a usual size."""
    whole_number('divisor', divisor, most=LARGEST_BLOCK,
                 must=f'channels are made a multiple of it, so it must be whole and from 1 to {LARGEST_BLOCK}')


def sizes(option: str, value: Any, images: bool = True) -> Tuple[int, ...]:
    """Return the shape of an input, batch first, of positive sizes.

    Args:
        option (str): What the shape is given for.
        value (Any): The shape.
        images (bool): It is ``(N, C, H, W)``; else any two sizes or more.
    """
    are_sizes = isinstance(value, (list, tuple)) and all(
        isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in value)
    if not are_sizes or len(value) < 2 or (images and len(value) != 4):
        found = tuple(value) if isinstance(value, list) else value
        kind = 'four positive sizes' if images else 'positive sizes'
        raise UserError(f'{option} must be {kind} with the batch first, like (1, 3, 224, 224); it is {short(found)}')
    if math.prod(value) > LARGEST_INPUT:
        raise UserError(f'{option} is {tuple(value)}, an input of {math.prod(value):.1g} numbers; it may have '
                        f'{LARGEST_INPUT:,}')
    return tuple(value)


def short(value: Any) -> str:
    """Return how a value is written, in one line and cut where it is long."""
    text = ' '.join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + '...'


def share(option: str, value: Any, must: str, zero: bool = False, one: bool = False,
          error: Type[UserError] = UserError) -> float:
    """Return a value between 0 and 1.

    Args:
        option (str): What the value is given for.
        value (Any): The value; booleans are no numbers.
        must (str): What it is and must be, for the message.
        zero (bool): 0 is allowed.
        one (bool): 1 is allowed.
        error (type): Raised if it is something else.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (0 < value < 1 or (zero and value == 0) or (one and value == 1)):
        raise error(f'{option} is {short(value)}; {must}')
    return float(value)


def one_of(option: str, value: Value, known: Collection[Value], error: Type[UserError] = UserError) -> Value:
    """Return a value that is among the known ones; the error lists them, the nearest first."""
    if value not in list(known):
        names = [str(name) for name in known]
        raise error(f'{option} is {short(value)}{nearest(str(value), names)}; it must be one of '
                    f'{", ".join(map(repr, names))}')
    return value


def renamed(old: str, given: Any, new: str, value: Any) -> Any:
    """Return the value of an argument that has a new name: what is given by the old one counts, with a warning."""
    if given is None:
        return value
    print_log(f'the argument {old!r} is called {new!r} now', logger='current', level=logging.WARNING)
    return given


def nearest(name: str, names: Sequence[str]) -> str:
    """Return ``, did you mean ...?`` for the closest names, or an empty string."""
    close = difflib.get_close_matches(str(name), names, n=2, cutoff=0.6)
    return f', did you mean {" or ".join(map(repr, close))}?' if close else ''


def typed(function: Function) -> Function:
    """Let a function or constructor refuse arguments whose types are not those of its annotations.

    Numbers are not looked at: what they mean and how large they may be is checked where they are used.

    Args:
        function (Callable): All of its parameters have names.

    Returns:
        Callable: The same function; it raises WrongTypeError for a wrong type, and for an unknown or missing argument.
    """
    signature = inspect.signature(function)
    hints = functools.lru_cache(None)(lambda: get_type_hints(function))

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        owner = type(args[0]).__name__ if 'self' in signature.parameters and args else function.__name__
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            unknown = next((key for key in kwargs if key not in signature.parameters), '')
            known = [key for key in signature.parameters if key != 'self']
            raise WrongTypeError(f'{owner} {error}{nearest(unknown, known)}; it takes {", ".join(known)}') from None
        for key, value in given.items():
            if key in hints() and not fits(value, hints()[key]):
                raise WrongTypeError(f'{owner}: {key} is {short(value)}; it must be {described(hints()[key])}')
        return function(*args, **kwargs)

    return cast(Function, checked)


def fits(value: Any, kind: Any) -> bool:
    """Tell whether a value is of a type, as an annotation states it; numbers and unknown kinds always are."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Union:
        return any(fits(value, part) for part in parts)
    origin = origin or kind
    if not isinstance(origin, type) or origin in (int, float, Any):
        return True
    if origin is collections.abc.Callable:
        return callable(value)
    if issubclass(origin, collections.abc.Mapping):
        return isinstance(value, (Mapping, Config)) and (not parts or all(
            fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items()))
    if issubclass(origin, collections.abc.Sequence) and origin is not str:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(
            fits(item, _item(parts)) for item in value)
    return isinstance(value, origin)


def _item(parts: Tuple[Any, ...]) -> Any:
    return parts[0] if parts else Any


def described(kind: Any) -> str:
    """Return what an annotation asks for, in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Union:
        known = sorted(parts, key=lambda part: part is type(None))
        return ' or '.join(dict.fromkeys(described(part) for part in known))
    origin = origin or kind
    if origin in NAMES:
        return NAMES[origin]
    if not isinstance(origin, type):
        return str(kind)
    if issubclass(origin, collections.abc.Mapping):
        return 'a dict'
    if issubclass(origin, collections.abc.Sequence):
        items = MANY.get(_item(parts))
        return f'a list of {items}' if items else 'a list'
    return 'a path' if origin is os.PathLike else f'a {origin.__name__}'
