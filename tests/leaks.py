"""What a test must not leave behind."""
import os
from contextlib import contextmanager

import torch

CHANGES_BY_ITSELF = ('PYTEST_CURRENT_TEST', 'LD_LIBRARY_PATH', 'QT_QPA_', 'KMP_', 'TORCHINDUCTOR_CACHE_DIR',
                     '_TORCHINDUCTOR_PYOBJECT', 'TOKENIZERS_PARALLELISM')


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
