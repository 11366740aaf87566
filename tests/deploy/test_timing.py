"""Models are timed in turns, one open at a time; what disturbs the times is told."""
import math

import pytest
import torch
from fake_runtimes import Clock, FakeRuntime

from mmprune.arguments import UserError
from mmprune.deploy import machine
from mmprune.deploy.runtimes.runtime import WARM_UP
from mmprune.deploy.timing import LEAST_TURNS, Candidate, Latency, Timing, measure, time_in_turns

X = torch.zeros(4, 3, 2, 2)


def timed(sources, rounds=30, seconds=math.inf, opening=0.0):
    """Return what measure finds for fake models, and what happened."""
    clock, log = Clock(), []
    runtime = FakeRuntime(clock, opening, log=log)
    found = measure({name: Candidate(runtime, list(times)) for name, times in sources.items()}, X, rounds, seconds,
                    clock)
    return found, log


def test_one_model_is_open_at_a_time_and_they_alternate():
    _, log = timed({'a': [3], 'b': [1]}, rounds=3)
    turn = ['open', *['run'] * (WARM_UP + 1), 'close']
    assert log == turn * 2 * LEAST_TURNS


def test_warm_up_does_not_count_and_ratio_is_the_median_over_turns():
    slow = [99, 99, 3, 99, 99, 2, 99, 99, 9]
    fast = [88, 88, 1, 88, 88, 1, 88, 88, 4]
    found, _ = timed({'a': slow, 'b': fast}, rounds=3)
    assert found['a'].runs == pytest.approx((3, 2, 9))
    assert found['b'].runs == pytest.approx((1, 1, 4))
    assert (found['a'].median, found['b'].median) == pytest.approx((3, 1))
    assert found['b'].speedup_over(found['a']) == pytest.approx(9 / 4)  # median of 3, 2 and 9 / 4


@pytest.mark.parametrize(('opening', 'per_turn', 'turns'), [
    (0.0, 3, 10),  # two runs to warm up take as long as two and a bit
    (0.0055, 8, 4), (1.0, 10, 3)])
def test_a_turn_has_as_many_runs_as_opening_takes(opening, per_turn, turns):
    found, log = timed({'a': [1.0, 1.1, 1.0], 'b': [5.0]}, rounds=30, opening=opening)
    assert len(found['a'].rounds) == len(found['b'].rounds) == log.count('open') // 2 == turns
    assert len(found['b'].runs) == per_turn * turns
    assert log.count('run') == 2 * turns * (per_turn + WARM_UP)


@pytest.mark.parametrize(('seconds', 'turns'), [(0, 3), (15, 3), (17, 4), (1e3, 7)])
def test_no_turn_begins_when_the_time_is_spent(seconds, turns):
    found, _ = timed({'a': [1e3, 1e3, 2001], 'b': [0.001]}, rounds=7, seconds=seconds)
    assert len(found['a'].rounds) == turns


@pytest.mark.parametrize(('seconds', 'taken'), [(60, 10), (0.5, 5)])
def test_runs_are_divided_into_more_turns_while_there_is_time(seconds, taken):
    clock, log = Clock(), []
    first, second = (FakeRuntime(clock, 0.02, log=log) for _ in range(2))
    found = time_in_turns({'a': lambda: first.opened([10], None), 'b': lambda: second.opened([5], None)}, 20, seconds,
                          clock=clock, turns=10)
    assert len(found['a'].rounds) == len(found['b'].rounds) == taken
    assert len(found['a'].runs) == 2 * taken


def test_a_model_alone_is_opened_once():
    found, log = timed({'a': [2.0]}, rounds=5, opening=1.0)
    assert log == ['open', *['run'] * (WARM_UP + 5), 'close']
    assert found['a'].rounds == pytest.approx([2.0])


def test_quartiles_images_and_lines():
    latency = Latency((2.0, ), (1.0, 2.0, 3.0, 4.0, 5.0), batch=4)
    assert latency.quartiles == (2.0, 4.0)
    assert latency.median == 3.0
    assert latency.images_per_second == pytest.approx(4e3 / 3)
    assert Latency((2.0, ), (2.0, )).quartiles == (2.0, 2.0)
    about = dict(runtime='fake', version='1.0', threads=2, device='nowhere', cpu='none')
    text = str(Timing({'net': latency}, {'net': about}, ('somebody else works', )))
    assert text.splitlines() == [
        '  net              3.00 ms (quartiles 2.00 to 4.00), 1333.3 images/s; fake 1.0, 2 threads, nowhere',
        'warning: somebody else works']


@pytest.mark.parametrize('rounds', [0, -1, 1.5, True])
def test_rounds_must_be_positive(rounds):
    with pytest.raises(UserError, match='rounds is'):
        time_in_turns({}, rounds)


def test_seconds_must_be_a_time():
    for seconds in (-1, math.nan):
        with pytest.raises(UserError, match='seconds is'):
            time_in_turns({}, 1, seconds)


class Machine:
    """Cores that are busy for a number of seconds, of a clock."""

    def __init__(self, monkeypatch, counted=True):
        self.now, self.own, self.busy, self.load = 0.0, 0.0, 50.0, 0.0
        monkeypatch.setattr(machine.time, 'perf_counter', lambda: self.now)
        monkeypatch.setattr(machine.time, 'process_time', lambda: self.own)
        monkeypatch.setattr(machine, '_busy_seconds', lambda: self.busy if counted else None)
        monkeypatch.setattr(machine, '_load', lambda: self.load)
        monkeypatch.setattr(machine.os, 'cpu_count', lambda: 4)
        monkeypatch.setattr(machine.os, 'sched_getaffinity', lambda process: {0, 2, 3}, raising=False)


def test_work_of_other_programs_is_told(monkeypatch):
    there = Machine(monkeypatch)
    watch = machine.OtherWork(2)
    there.now, there.own, there.busy = 10.0, 20.0, 50.0 + 20.0 + 4.0
    assert watch.cores() == pytest.approx(0.4)
    assert watch.warnings() == []
    there.busy += 3.0
    there.load = 2.5
    assert watch.warnings() == ['other programs kept 0.7 of 4 cores busy (load average 0.0 before, 2.5 after): measure '
                                'again on an idle machine']


def test_load_average_where_nobody_counts(monkeypatch):
    there = Machine(monkeypatch, counted=False)
    there.load = 1.9
    watch = machine.OtherWork(1)
    there.now, there.own, there.load = 10.0, 10.0, 2.0
    assert watch.cores() == pytest.approx(0.9)
    there.load = 1.0
    assert watch.cores() == 0


def test_more_threads_than_cores_are_told(monkeypatch):
    Machine(monkeypatch)
    assert machine.OtherWork(3).warnings() == []
    assert machine.OtherWork(4).warnings() == [
        '4 threads on 3 cores wait for one another: the times are too long']  # of the four cores it may use three
    monkeypatch.delattr(machine.os, 'sched_getaffinity')
    assert machine.OtherWork(4).warnings() == []
    assert machine.OtherWork(5).warnings() == [
        '5 threads on 4 cores wait for one another: the times are too long']


def test_busy_seconds_are_read(monkeypatch, tmp_path):
    path = tmp_path / 'stat'
    path.write_text('cpu  100 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n')
    monkeypatch.setattr(machine, 'CPU_TIMES', path)
    monkeypatch.setattr(machine.os, 'sysconf', lambda name: 100)
    assert machine._busy_seconds() == pytest.approx(1.71)
    monkeypatch.setattr(machine, 'CPU_TIMES', tmp_path / 'none')
    assert machine._busy_seconds() is None
