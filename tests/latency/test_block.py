"""The block of a runtime follows from the staircase that its times are."""
import pytest
from fake_runtimes import Clock, FakeRuntime

from mmprune.arguments import UserError
from mmprune.deploy.runtimes.pytorch import Torch
from mmprune.latency import block
from mmprune.latency.block import BLOCKS, WIDTHS, block_of, envelope, measured_block, small_network, width_times


def stairs(step, slow_below=1):
    """Return times of a runtime that pads channels to ``step``, and twice as slow off another number."""
    return {width: (-(-width // step) * step) ** 1.5 * (1 if width % slow_below == 0 else 2) for width in WIDTHS}


@pytest.mark.parametrize('step', BLOCKS)
def test_stairs_want_whole_steps(step):
    assert block_of(stairs(step)) == step


@pytest.mark.parametrize('slow_below', BLOCKS)
def test_widths_that_fall_out_are_no_multiples(slow_below):
    assert block_of(stairs(1, slow_below)) == slow_below
    assert block_of(stairs(4, slow_below)) == max(4, slow_below)


def test_a_few_per_cent_do_not_count():
    times = {width: value * (1.03 if width % 8 else 1) for width, value in stairs(1).items()}
    assert block_of(times) == 1
    assert block_of(times, tolerance=0.01) == 8


def test_every_block_has_widths_of_its_own():
    for size, following in zip(BLOCKS, (*BLOCKS[1:], 128)):
        assert sum(width % size == 0 and width % following != 0 for width in WIDTHS) >= 2


def test_the_envelope_is_the_largest_convex_function_below():
    times = {1: 4.0, 2: 9.0, 3: 2.0, 4: 8.0, 5: 10.0}
    assert envelope(times) == pytest.approx({1: 4.0, 2: 3.0, 3: 2.0, 4: 6.0, 5: 10.0})


def test_widths_are_timed_in_turns(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(block, 'small_network', lambda width: [stairs(16)[width]])
    monkeypatch.setattr(block, 'measure', lambda candidates, x, runs, original=block.measure: original(
        candidates, x, runs, clock=clock))
    assert width_times(FakeRuntime(clock), runs=3) == pytest.approx(stairs(16))
    assert measured_block(FakeRuntime(clock), runs=3) == 16


@pytest.mark.parametrize(('disturbed', 'turns'), [(0, 2), (1, 3), (2, 3)])
def test_what_disturbs_a_few_widths_is_not_taken_for_a_staircase(monkeypatch, disturbed, turns):
    """In the first turns, other programs make one width in two half as slow again."""
    rounds = []

    def times(*args):
        rounds.append({width: value * (1.5 if len(rounds) < disturbed and (place + len(rounds)) % 2 else 1)
                       for place, (width, value) in enumerate(stairs(4).items())})
        return rounds[-1]

    monkeypatch.setattr(block, 'width_times', times)
    assert measured_block(Torch()) == 4
    assert len(rounds) == turns
    assert (block_of(rounds[0]) == 4) == (disturbed == 0)


def test_the_network_runs():
    times = width_times(Torch(), widths=(8, 13), runs=1)
    assert min(times.values()) > 0
    assert small_network(13)[1][0].weight.shape == (13, 13, 1, 1)


def test_two_widths_are_too_few():
    with pytest.raises(UserError, match='^2 widths tell no block'):
        block_of({8: 1.0, 16: 2.0})
