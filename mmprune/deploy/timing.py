"""Time several models in turns with one live session at a time, so that they share slow spells and nothing else.

The worker threads of a session go on spinning after its run and slow down whatever runs next: with two threads a small
model that takes 10.5 ms alone takes 18.4 ms while a large one is open. So a model is opened, warmed up, run a few times
and closed before the next one is opened.
"""
import math
import statistics
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

from torch import Tensor

from ..arguments import UserError, whole_number
from .machine import OtherWork
from .runtimes.runtime import WARM_UP, Description, Runtime, in_words

LEAST_TURNS = 3  # of each of several models, whatever the time budget

Opener = Callable[[], 'AbstractContextManager[Callable[[], Any]]']
Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Times of a model in milliseconds for one batch."""

    rounds: Tuple[float, ...]  # of each turn the median over its runs, in order
    runs: Tuple[float, ...]  # every timed run, in order
    batch: int = 1  # images of a run

    @property
    def median(self) -> float:
        """The median over all runs."""
        return statistics.median(self.runs)

    @property
    def quartiles(self) -> Tuple[float, float]:
        """The first and the third quartile of all runs."""
        if len(self.runs) == 1:
            return self.runs[0], self.runs[0]
        first, _, third = statistics.quantiles(self.runs, n=4, method='inclusive')
        return first, third

    @property
    def images_per_second(self) -> float:
        """Images that go through in a second."""
        return 1e3 * self.batch / self.median

    def speedup_over(self, other: 'Latency') -> float:
        """Return the median over turns of the other model's time over this model's.

        The turns of both alternate, so each compares them under the same load; the ratio of two medians does not.
        """
        return statistics.median(theirs / own for own, theirs in zip(self.rounds, other.rounds))

    def __str__(self) -> str:
        first, third = self.quartiles
        return f'{self.median:8.2f} ms (quartiles {first:.2f} to {third:.2f}), {self.images_per_second:.1f} images/s'


class Candidate(NamedTuple):
    """A model to be timed."""

    runtime: Runtime
    source: Any  # what Runtime.prepare returns


@dataclass(frozen=True)
class Timing:
    """The latency of several models, where they ran, and what was wrong with the machine meanwhile."""

    latency: Dict[str, Latency]
    about: Dict[str, Description]  # of each model, what Runtime.describe returns
    warnings: Tuple[str, ...]

    def __getitem__(self, name: str) -> Latency:
        """Return the latency of a model."""
        return self.latency[name]

    def __str__(self) -> str:
        """Return a line for each model, then one for each warning."""
        width = max(12, *map(len, self.latency))
        lines = [f'  {name:<{width}} {latency}; {in_words(self.about[name])}' for name, latency in self.latency.items()]
        return '\n'.join([*lines, *self.warning_lines()])

    def as_json(self) -> Dict[str, Dict[str, float]]:
        """Return of each model ``median``, ``first_quartile``, ``third_quartile`` in milliseconds, and ``threads``."""
        return {name: dict(zip(('median', 'first_quartile', 'third_quartile'), (latency.median, *latency.quartiles)),
                           threads=int(self.about[name]['threads'])) for name, latency in self.latency.items()}

    def warning_lines(self) -> List[str]:
        """Return the warnings, each a line to print."""
        return [f'warning: {text}' for text in self.warnings]


def measure(candidates: Mapping[str, Candidate], x: Tensor, rounds: int = 30, seconds: float = math.inf,
            clock: Clock = time.perf_counter, turns: int = LEAST_TURNS) -> Timing:
    """Time several models on an input, each in its runtime; see :func:`time_in_turns`.

    Args:
        candidates (dict[str, Candidate]): Name -> model.
        x (Tensor[N, C, H, W]): The input.
        rounds (int): Timed runs of each model.
        seconds (float): Time budget.
        clock (Callable): Returns seconds.
        turns (int): Into which the runs of a model are divided at least, while there is time.

    Raises:
        UserError: ``rounds`` is no positive number, or a model cannot be opened or run.
    """
    other_work = OtherWork(max((candidate.runtime.threads for candidate in candidates.values()), default=1))
    openers: Dict[str, Opener] = {name: _opener(candidate, x) for name, candidate in candidates.items()}
    latency = time_in_turns(openers, rounds, seconds, x.size(0), clock, turns)
    return Timing(latency, {name: candidate.runtime.describe() for name, candidate in candidates.items()},
                  tuple(other_work.warnings()))


def _opener(candidate: Candidate, x: Tensor) -> Opener:
    return lambda: candidate.runtime.opened(candidate.source, x)


def time_in_turns(openers: Mapping[str, Opener], rounds: int = 30, seconds: float = math.inf, batch: int = 1,
                  clock: Clock = time.perf_counter, turns: int = LEAST_TURNS) -> Dict[str, Latency]:
    """Time several models in turns, A B C A B C, so that a slow spell of the machine hits all of them.

    Opening a model may take as long as hundreds of its runs, so a turn has several timed runs: as many as take about
    the time that the first model takes to open and warm up, so long as there are at least three turns. A model alone
    has nothing to alternate with and is opened once.

    Args:
        openers (dict[str, Callable]): Name -> what opens a model; its context gives a run without arguments, and closes
            the model at its end.
        rounds (int): Timed runs of each model, at least; several models get three or more.
        seconds (float): No further turn begins when this time is spent, except for the first three.
        batch (int): Images of a run.
        clock (Callable): Returns seconds.
        turns (int): Into which the runs of a model are divided at least, while there is time.

    Returns:
        dict[str, Latency]: Name -> milliseconds.

    Raises:
        UserError: ``rounds`` is no positive number.
    """
    whole_number('rounds', rounds)
    if not seconds >= 0:
        raise UserError(f'seconds is {seconds}; it must be a time of 0 or more')
    least = LEAST_TURNS if len(openers) > 1 else 1
    taken: Dict[str, List[List[float]]] = {name: [] for name in openers}
    began, per_turn, done, most = clock(), 0, 0, math.ceil(rounds / (turns if len(openers) > 1 else 1))
    while openers and (done < least or (done * per_turn < rounds and clock() - began < seconds)):
        for name, opener in openers.items():
            times, per_turn = _turn(opener, per_turn, most, clock)
            taken[name].append(times)
        done += 1
    return {name: Latency(tuple(1e3 * statistics.median(times) for times in several),
                          tuple(1e3 * value for times in several for value in times), batch)
            for name, several in taken.items()}


def _turn(opener: Opener, count: int, most: int, clock: Clock) -> Tuple[List[float], int]:
    """Open a model, run it and close it; return the seconds of its timed runs, and how many there were.

    Args:
        opener (Callable): Opens it.
        count (int): Timed runs; 0 to choose, up to ``most``, by what it takes to open.
        most (int): Timed runs at most.
        clock (Callable): Returns seconds.
    """
    times: List[float] = []
    began = clock()
    with opener() as run:
        for _ in range(WARM_UP):
            run()
        opened = clock() - began
        while len(times) < (count or 1) or (not count and len(times) < most and sum(times) < opened):
            start = clock()
            run()
            times.append(clock() - start)
    return times, len(times)
