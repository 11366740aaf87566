"""Files that appear whole or not at all, and json files that are read with care."""
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple, Type, Union

from .arguments import UserError

#: Bytes of a json file that are read at most: which channels stay of the largest networks is a hundredth of it.
LARGEST_JSON = 1 << 26


@contextmanager
def whole_file(path: Union[str, 'os.PathLike[str]']) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; what is written there is moved into place when the block succeeds.

    Args:
        path (str or PathLike): The file; its folder is made. An old file stays if the block raises.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f'.{os.getpid()}.{target.name}')  # the suffix tells some writers the format
    try:
        yield temporary
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())  # the contents reach the disk before the name does
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, path: Union[str, 'os.PathLike[str]']) -> None:
    """Write a text file; it appears whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def write_json(value: Any, path: Union[str, 'os.PathLike[str]'], indent: int = 2) -> None:
    """Write a value as json; the file appears whole or not at all."""
    write_text(json.dumps(value, indent=indent) + '\n', path)


def read_json(path: Union[str, 'os.PathLike[str]'], role: str, missing: str = '',
              error: Type[UserError] = UserError) -> Any:
    """Return what a json file holds.

    Args:
        path (str or PathLike): The file.
        role (str): What it is for, for the message.
        missing (str): What to say if it does not exist, behind that.
        error (type): Raised if the file is missing, too large, not json, or has an object with a name twice.
    """
    name = repr(os.fspath(path))
    try:
        size = os.stat(path).st_size
        text = Path(path).read_text(encoding='utf-8') if size <= LARGEST_JSON else 'null'
        value = json.loads(text, object_pairs_hook=_unique)
    except FileNotFoundError:
        raise error(f'{role}: there is no file {name}{missing}') from None
    except OSError as problem:
        raise error(f'{role}: {name} cannot be read ({problem.strerror})') from None
    except ValueError as problem:  # no json, no UTF-8, a name twice, a number of thousands of digits; no name of a file
        raise error(f'{role}: {name} is not json ({problem})') from None
    except RecursionError:
        raise error(f'{role}: {name} is not json (too many brackets in one another)') from None
    if size > LARGEST_JSON:
        raise error(f'{role}: {name} has {size >> 20} MB; the json file that is wanted is small')
    return value


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """Return a json object; raise UserError where a name stands twice, of which json itself takes the last."""
    found: Dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f'it has the name {name!r} twice')
        found[name] = value
    return found
