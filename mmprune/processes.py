"""Processes that end with the one that started them, however that ends (Linux)."""
import ctypes
import functools
import os
import signal
import sys

#: ``PR_SET_PDEATHSIG`` of ``prctl(2)``.
SIGNAL_WHEN_PARENT_ENDS = 1


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends; nothing happens where that is not Linux."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(SIGNAL_WHEN_PARENT_ENDS, signal.SIGKILL)


@functools.lru_cache(maxsize=None)
def let_forks_die_with_this() -> None:
    """Let all processes that are forked from now on end with this one: workers of data loaders.

    A worker that outlives its loader waits for ever to write into a pipe that nobody reads, and keeps what it has
    inherited, such as the lock of a folder.
    """
    if sys.platform == 'linux':
        os.register_at_fork(after_in_child=die_with_parent)
