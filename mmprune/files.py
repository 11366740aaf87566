"""Files that appear whole or not at all."""
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union


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
