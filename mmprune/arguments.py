"""What users give: whole numbers, shares, known names; and the error that says what was wrong and what to do."""
import difflib
import logging
from typing import Any, Collection, Optional, Sequence, Type, TypeVar

from mmengine.logging import print_log

Value = TypeVar('Value')


class UserError(ValueError):
    """A mistake of a user: the message is all that he needs, so the command line prints it and nothing else."""


def whole_number(option: str, value: Any, least: int = 1, must: Optional[str] = None,
                 error: Type[UserError] = UserError) -> int:
    """Return a value that is a whole number of at least so much.

    Args:
        option (str): What the value is given for.
        value (Any): The value; booleans are no numbers.
        least (int): The least number that is allowed.
        must (str, optional): What it is and must be, for the message.
        error (type): Raised if it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise error(f'{option} is {value!r}; {must or f"it must be a whole number of {least} or more"}')
    return value


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
        raise error(f'{option} is {value!r}; {must}')
    return float(value)


def one_of(option: str, value: Value, known: Collection[Value], error: Type[UserError] = UserError) -> Value:
    """Return a value that is among the known ones; the error lists them, the nearest first."""
    if value not in list(known):
        names = [str(name) for name in known]
        raise error(f'{option} is {value!r}{nearest(str(value), names)}; it must be one of '
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
