"""Time models in turns, with one live session at a time, and watch what else the machine does meanwhile."""
import os
import statistics
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from mmengine.logging import print_log
from torch import Tensor

from ..arguments import whole_number
from .runtimes.runtime import Runtime, Source, times_of

#: Turns, and within a turn the seconds and the fewest runs of a model.
TURNS, SECONDS, LEAST_RUNS = 5, 0.3, 3
#: Cores that other processes may keep busy before a timing is doubted.
OTHER_WORK = 0.25


class Latency(NamedTuple):
    """Times of a model in milliseconds.

    Attributes:
        median (float): Of all runs.
        low, high (float): Their quartiles.
        turns (tuple[float]): Median of each turn, in order.
        batch (int): Images of a run.
    """

    median: float
    low: float
    high: float
    turns: Tuple[float, ...]
    batch: int = 1

    @classmethod
    def of(cls, turns: List[List[float]], batch: int = 1) -> 'Latency':
        """Return the summary of the milliseconds of runs, turn by turn."""
        runs = sorted(one for turn in turns for one in turn)
        low, high = (runs[round(share * (len(runs) - 1))] for share in (0.25, 0.75))
        return cls(statistics.median(runs), low, high, tuple(map(statistics.median, turns)), batch)

    @property
    def images_per_second(self) -> float:
        """Images per second, one batch after the other."""
        return 1e3 * self.batch / self.median

    def speedup_over(self, other: 'Latency') -> float:
        """Return the median over turns of the other model's time over this one's.

        Both ran in the same turns, so that a slow spell of the machine hits both; the ratio of two medians does not see
        that.
        """
        return statistics.median(theirs / own for own, theirs in zip(self.turns, other.turns))

    def __str__(self) -> str:
        return f'{self.median:.2f} ms ({self.low:.2f} to {self.high:.2f})'


def time_in_turns(runtime: Runtime, sources: Mapping[str, Source], x: Tensor, turns: int = TURNS,
                  seconds: float = SECONDS, least_runs: int = LEAST_RUNS) -> Dict[str, Latency]:
    """Time several models, A B C A B C: each turn opens a session, warms it up, runs it some times and closes it.

    Threads of a session go on spinning after its run, and slow down whatever runs next; so only one is open at a time.

    Args:
        runtime (Runtime): Where they run.
        sources (dict[str, Path or nn.Module]): Name -> what :meth:`Runtime.prepare` returned.
        x (Tensor[N, C, H, W]): The input of all of them.
        turns (int): Turns.
        seconds (float): Of runs of one model in a turn.
        least_runs (int): Runs of one model in a turn at least.
    """
    whole_number('turns', turns)
    times: Dict[str, List[List[float]]] = {name: [] for name in sources}
    with other_work_noticed(runtime.threads):
        for _ in range(turns):
            for name, source in sources.items():
                with runtime.opened(source, x) as run:
                    times[name].append(times_of(run, seconds, least_runs))
    return {name: Latency.of(each, len(x)) for name, each in times.items()}


@contextmanager
def other_work_noticed(threads: int) -> Iterator[None]:
    """Warn after the block if other processes kept the machine busy, or if it has fewer cores than threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    if threads > cores:
        print_log(f'{threads} threads on {cores} cores: they wait for one another, and times mean little',
                  logger='current', level=30)
    before, began, own = busy_seconds(), time.monotonic(), sum(os.times()[:4])
    yield
    after, passed = busy_seconds(), time.monotonic() - began
    if before is None or after is None or passed < 0.5:
        return
    others = (after - before - (sum(os.times()[:4]) - own)) / passed
    if others > OTHER_WORK:
        print_log(f'other processes kept {others:.1f} cores busy while times were taken: measure again on a machine '
                  'that does nothing else', logger='current', level=30)


def busy_seconds() -> Optional[float]:
    """Return the seconds that all cores have worked since the machine started; None where it does not tell."""
    stat = Path('/proc/stat')
    if not stat.exists():
        return None
    fields = [int(one) for one in stat.read_text(encoding='utf-8').split('\n', 1)[0].split()[1:9]]
    user, nice, system, _, _, irq, softirq, _ = fields
    return (user + nice + system + irq + softirq) / os.sysconf('SC_CLK_TCK')
