"""The machine that a time is measured on: its CPU, and how busy other programs keep it."""
import os
import platform
import re
import time
from pathlib import Path
from typing import Any, List, Optional

import torch

#: Cores that other programs may keep busy before a time is called disturbed.
QUIET = 0.5
CPU_INFO, CPU_TIMES = Path('/proc/cpuinfo'), Path('/proc/stat')


def cpu_name() -> str:
    """Return the model of the CPU and the widest vector instructions that torch sees, like ``AMD EPYC (AVX512)``."""
    found = re.search(r'model name\s*: (.*)', CPU_INFO.read_text()) if CPU_INFO.exists() else None
    name = found.group(1) if found else platform.processor() or platform.machine()
    backend: Any = getattr(torch.backends, 'cpu', None)  # torch 2.0 has none
    return f'{name} ({backend.get_cpu_capability()})' if backend is not None else name


def has_integer_dot_products() -> bool:
    """Tell whether the CPU adds products of 8-bit numbers without overflow: VNNI on x86; others always do.

    Without, two products of a full byte may not fit into 16 bits, and weights get seven bits only.
    """
    if platform.machine().lower() not in ('x86_64', 'amd64', 'i386', 'i686') or not CPU_INFO.exists():
        return True
    flags = re.search(r'^flags\s*: (.*)', CPU_INFO.read_text(), re.M)
    return flags is None or bool({'avx512_vnni', 'avx_vnni'} & {*flags.group(1).split()})


def usable_cores() -> int:
    """Return how many cores this process may use, of those that the machine has."""
    if hasattr(os, 'sched_getaffinity'):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OtherWork:
    """Watches what other programs do on this machine while a measurement runs.

    Where the kernel counts the busy time of its cores, it is that of all cores less that of this process. Elsewhere it
    is the load average of the last minute less the cores that this process used.

    Args:
        threads (int): Threads that are measured.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._before = _load()
        self._began, self._own, self._busy = time.perf_counter(), time.process_time(), _busy_seconds()

    def cores(self) -> float:
        """Return how many cores other programs kept busy on average since the start."""
        wall = max(time.perf_counter() - self._began, 1e-3)
        own, busy = time.process_time() - self._own, _busy_seconds()
        if busy is None or self._busy is None or wall < 0.2:  # the kernel counts in hundredths of a second
            return max(0.0, min(self._before, _load()) - own / wall)
        return max(0.0, (busy - self._busy - own) / wall)

    def warnings(self) -> List[str]:
        """Return what makes the measured times doubtful, each in a line."""
        found, count, usable = [], os.cpu_count() or 1, usable_cores()
        if self.threads > usable:
            found.append(f'{self.threads} threads on {usable} cores wait for one another: the times are too long')
        others = self.cores()
        if others > QUIET:
            found.append(f'other programs kept {others:.1f} of {count} cores busy (load average '
                         f'{self._before:.1f} before, {_load():.1f} after): measure again on an idle machine')
        return found


def _load() -> float:
    """Return the load average of the last minute; 0 where the system has none."""
    return os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0.0


def _busy_seconds() -> Optional[float]:
    """Return the seconds that all cores have been busy since the machine started, or None where nobody counts them."""
    try:
        fields = CPU_TIMES.read_text().splitlines()[0].split()
    except OSError:
        return None
    ticks = [int(field) for field in fields[1:9]]  # user, nice, system, idle, iowait, irq, softirq, steal
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf('SC_CLK_TCK')
