"""Fixtures of all tests: the same seed, one thread, nothing left behind, real data where there is any."""
import os
import random
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

#: pytest's own; what importing OpenCV, OpenMP and torch's compiler sets, in whichever test comes first
CHANGES_BY_ITSELF = ('PYTEST_CURRENT_TEST', 'LD_LIBRARY_PATH', 'QT_QPA_', 'KMP_', 'TORCHINDUCTOR_CACHE_DIR')


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def no_leaks():
    """Fail if the block leaves a process group or a changed environment; both are put right first."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    changed = sorted(name for name in {*before, *after}
                     if before.get(name) != after.get(name) and not name.startswith(CHANGES_BY_ITSELF))
    for name in changed:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    if grouped:
        torch.distributed.destroy_process_group()
    assert not grouped, 'the test left an initialised process group'
    assert not changed, f'the test changed the environment: {changed}'


@pytest.fixture(autouse=True)
def leaves_nothing_behind():
    with no_leaks():
        yield


@pytest.fixture
def data_root():
    """Folder with the real data; a test without it is skipped, or fails where MMPRUNE_REQUIRE_DATA is set."""
    folder = os.environ.get('MMPRUNE_DATA')
    missing = None
    if not folder:
        missing = 'needs the real data: MMPRUNE_DATA does not name a folder'
    elif not Path(folder).is_dir():
        missing = f'needs the real data: MMPRUNE_DATA names {folder!r}, which is no folder'
    if missing:
        if os.environ.get('MMPRUNE_REQUIRE_DATA'):
            pytest.fail(missing)
        pytest.skip(missing)
    return Path(folder)
