"""Files of ``torch.save``: tested by their checksums, then read, without running code where that is possible."""
import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, List, Optional, Tuple
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader

from ..arguments import UserError

#: What zipfile, pickle and torch raise on bytes that are none of theirs; they promise nothing narrower.
DAMAGED = (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError,
           ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, ImportError,
           MemoryError)
ZIP = b'PK\x03\x04'
#: In a record's external attributes.
FOLDER = 0x10


class CheckpointError(UserError):
    """A checkpoint is missing, unreadable or of another model."""


def read_file(path: Path, role: str) -> Any:
    """Return what a file of ``torch.save`` holds.

    Args:
        path (Path): The file.
        role (str): What the checkpoint is for, for the error message (``pretrained_path``...).

    Raises:
        CheckpointError: The file does not exist, is damaged or is not a PyTorch checkpoint.
    """
    check_file(path, role)
    is_zip = zipfile.is_zipfile(path)
    problem = wrong_storage(path) if is_zip else None
    if problem is not None:
        raise _unreadable(path, role, problem)
    if not is_zip:
        print_log(f'{path} is of a torch before 1.6, whose files have no checksums: if it is damaged, that may not be '
                  'seen', logger='current', level=30)
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except DAMAGED as error:
        if not isinstance(error, pickle.UnpicklingError) or 'weights' not in str(error).lower():
            raise _unreadable(path, role, first_line(error)) from None
    try:  # checkpoints of mmengine's own hook contain the message hub and other objects besides tensors
        checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    except DAMAGED as error:
        raise _unreadable(path, role, first_line(error)) from None
    print_log(f'{path} holds more than tensors; it was loaded with pickle, which can run code: use files you trust',
              logger='current')
    return checkpoint


def check_file(path: Path, role: str) -> None:
    """Raise CheckpointError if there is no file, or if its checksums, which ``torch.load`` ignores, are wrong."""
    try:
        is_file = path.is_file()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise CheckpointError(f'{role}: {str(path)[:200]!r} is no path of a file ({first_line(error)})') from None
    if not is_file:
        raise CheckpointError(f'{role}: there is no file {str(path)!r}; set {role} to the path or URL of a checkpoint')
    problem = damage(path)
    if problem is not None:
        raise _unreadable(path, role, problem)


def _unreadable(path: Path, role: str, problem: str) -> CheckpointError:
    return CheckpointError(f'{role}: {str(path)!r} is not a readable PyTorch checkpoint ({problem}); is the file '
                           'complete?')


def damage(path: Path) -> Optional[str]:
    """Return what is wrong with a file, or None; a file that is no zip archive has no checksums that could tell."""
    try:
        with open(path, 'rb') as file:
            begins = file.read(len(ZIP)) == ZIP
        if not begins:
            return 'its first bytes are damaged' if zipfile.is_zipfile(path) else None
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len({*names}) < len(names):
                return 'it has two records of one name'
            for one in archive.infolist():
                if _is_no_file(one, path.stat().st_size):
                    return f'its record {one.filename!r} has not the size that it says, or calls itself a folder'
            record = archive.testzip()
    except DAMAGED as error:
        return first_line(error)
    return None if record is None else f'the checksum of its record {record!r} is wrong'


def _is_no_file(record: zipfile.ZipInfo, size: int) -> bool:
    """Tell whether the directory of an archive of so many bytes says of a record what cannot be.

    No checksum covers that: zipfile would make room for any size, and torch takes whatever lies in memory for a record
    that calls itself a folder.
    """
    is_stored = record.compress_type == zipfile.ZIP_STORED
    is_folder = bool(record.external_attr & FOLDER) and record.file_size > 0
    return record.compress_size > size or (is_stored and record.file_size != record.compress_size) or is_folder


def wrong_storage(path: Path) -> Optional[str]:
    """Return what is wrong with the sizes of the storages in a whole zip archive, or None; no code of it runs.

    The pickle says how many numbers a record holds, and older torches believe it.
    """
    with zipfile.ZipFile(path) as archive:
        sizes = {name.partition('/')[2]: archive.getinfo(name).file_size for name in archive.namelist()}
        content = next((archive.read(name) for name in archive.namelist() if name.endswith('/data.pkl')), b'')
    sizer = _Sizer(io.BytesIO(content))
    try:
        sizer.load()
    except DAMAGED:  # torch will say what it cannot read
        return None
    for key, size in sizer.storages:
        if sizes.get(f'data/{key}') != size:
            return f'its record data/{key} has {sizes.get(f"data/{key}")} bytes, and should have {size}'
    return None


class _Stub:
    """Stands for any object of a pickle."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_Stub':
        return object.__new__(cls)

    def ignore(self, *args: Any, **kwargs: Any) -> '_Stub':
        """Take anything."""
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = ignore


class _Sizer(pickle.Unpickler):
    """Finds the names and sizes in bytes of the storages of a pickle."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: List[Tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> Any:
        """Return a storage's size of an element, a stub for everything else."""
        kind = getattr(torch, name, None) if name.endswith('Storage') else None
        dtype = getattr(kind, 'dtype', None)
        return _Stub if kind is None else torch.empty((), dtype=dtype).element_size() if dtype is not None else 1

    def persistent_load(self, pid: Any) -> Any:
        """Note a storage."""
        if isinstance(pid, tuple) and len(pid) == 5 and isinstance(pid[1], int) and isinstance(pid[4], int):
            self.storages.append((str(pid[2]), pid[1] * pid[4]))
        return _Stub()


def read_url(url: str, role: str) -> Any:
    """Return what a checkpoint at a URL that mmengine knows holds; torch keeps the file for the next time.

    Raises:
        CheckpointError: It cannot be downloaded or read, or its checksums are wrong.
    """
    kept = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name)
    try:
        checkpoint = CheckpointLoader.load_checkpoint(url, map_location='cpu')
    except DAMAGED as error:
        again = f'; delete {kept} if it is torn' if kept.is_file() else ''
        raise CheckpointError(f'{role}: {url} cannot be downloaded ({first_line(error)}){again}') from None
    problem = damage(kept) if kept.is_file() else None
    if problem is not None:
        raise CheckpointError(f'{role}: what was downloaded from {url} is damaged ({problem}); delete {kept}')
    return checkpoint


def is_whole(path: Path) -> bool:
    """Tell whether a file of today's ``torch.save`` can be read to its end."""
    return path.is_file() and zipfile.is_zipfile(path) and damage(path) is None


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type."""
    return (str(error).splitlines() or [''])[0][:120] or type(error).__name__
