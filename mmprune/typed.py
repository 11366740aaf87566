"""Arguments of other types than a signature states are refused, in one line, before anything is done with them."""
import collections.abc
import functools
import inspect
import os
from typing import Any, Callable, Mapping, Sequence, Tuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from mmengine.config import Config
from torch import nn

from .arguments import WrongTypeError, nearest, short

Function = TypeVar('Function', bound=Callable[..., Any])
#: What a type is called in a message.
NAMES = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'text', type(None): 'None',
         nn.Module: 'an nn.Module'}

MANY = {int: 'whole numbers', float: 'numbers', str: 'texts'}


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
