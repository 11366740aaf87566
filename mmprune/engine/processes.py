"""Processes that end with the one that started them, however that ends (Linux)."""
import ctypes
import functools
import os
import signal
import sys

#: ``PR_SET_PDEATHSIG`` of ``prctl(2)``.
SIGNAL_WHEN_PARENT_ENDS = 1


class _Parent:
    """The process that is about to fork."""

    pid = 0


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that started it ends; only Linux can.

    Args:
        parent (int): The process that started it; where that has ended already, this one ends at once.
    """
    if sys.platform != 'linux':
        return
    _libc().prctl(SIGNAL_WHEN_PARENT_ENDS, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@functools.lru_cache(maxsize=None)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.lru_cache(maxsize=None)
def let_forks_die_with_this() -> None:
    """Let all processes that are forked from now on end with this one, or with its thread that forks: data workers.

    A worker that outlives its loader waits for ever to write into a pipe that nobody reads, and keeps what it has
    inherited, such as the lock of a folder.
    """
    if sys.platform == 'linux':
        _libc()
        os.register_at_fork(before=lambda: setattr(_Parent, 'pid', os.getpid()),
                            after_in_child=lambda: die_with_parent(_Parent.pid))
