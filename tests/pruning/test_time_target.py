"""Targets in time: what is asked, what comes out, and what is said where it cannot be."""
import numpy as np
import pytest
import torch
from layer_runtime import FakeRuntime, Streams
from tiny_transformer import TinyViT, images

from mmprune import Pruner
from mmprune.latency.profiled import measure_table
from mmprune.latency.table import LatencyTableError
from mmprune.pruning.target import PruningTarget, TargetError

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RUNTIME = dict(type='FakeRuntime', block=4, networks=16)


def pruner(target, **runtime):
    torch.manual_seed(0)
    return Pruner(Streams(), X, 'L2', target=target, runtime=dict(RUNTIME, **runtime))


def milliseconds(model):
    return FakeRuntime().exact_ms(model, X)


@pytest.fixture(scope='module')
def dense_ms():
    return milliseconds(Streams())


def in_blocks(made):
    return all(count % 4 == 0 for count in made.mutator.structure.values())


@pytest.mark.parametrize('share', [0.8, 0.6])
def test_a_share_of_the_time_is_reached_in_whole_blocks(share, dense_ms):
    made = pruner(dict(latency=share))
    made.cut()
    assert share - 0.05 < milliseconds(made.model) / dense_ms <= share * 1.01
    assert in_blocks(made)
    assert made.plan.kept_score <= made.plan.bound * (1 + 1e-9)
    attempt = made.plan.attempts[-1]
    assert attempt.asked == pytest.approx(share * dense_ms)
    assert attempt.measured == pytest.approx(milliseconds(made.model))
    assert 'asked' in made.report()


@pytest.mark.parametrize('share', [0.8, 0.6])
def test_a_transformer_reaches_a_share_of_its_time(share):
    def network():
        torch.manual_seed(0)
        return TinyViT(dim=384)

    made = Pruner(network(), images().float(), 'L2', target=dict(latency=share), runtime=dict(RUNTIME, networks=24))
    made.cut()
    dense, left = (FakeRuntime().exact_ms(model, images().float()) for model in (network(), made.model))
    assert share - 0.05 < left / dense <= share * 1.01
    assert made.plan.attempts[0].predicted == pytest.approx(made.plan.attempts[0].measured, rel=0.02)


def test_no_table_is_measured_for_a_target_that_is_no_time(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr('mmprune.latency.meter.measure_table', None)
        made = pruner(dict(flops=0.5, align='auto'))
        made.choose()
    made.target = PruningTarget.of(dict(latency=0.7))
    assert made.choose().attempts


def test_milliseconds_are_the_same_target_as_their_share(dense_ms):
    first, second = pruner(dict(latency=0.7)), pruner(dict(latency_ms=0.7 * dense_ms))
    first.cut(), second.cut()
    assert first.mutator.structure == second.mutator.structure


def test_more_of_the_scores_stay_than_by_flops_at_the_same_time(dense_ms):
    timed = pruner(dict(latency=0.6))
    timed.cut()
    by_flops = pruner(dict(flops=0.9, align='auto'))
    scores = {unit.name: by_flops.criterion.score(unit).double().numpy() for unit in by_flops.mutator.units}

    def kept(plan):
        return sum(scores[name][mask].sum() for name, mask in plan.masks.items())

    for flops in np.arange(0.9, 0.1, -0.02):  # the first choice by FLOPs that is as fast
        by_flops = pruner(dict(flops=float(flops), align='auto'))
        by_flops.cut()
        assert in_blocks(by_flops)
        if milliseconds(by_flops.model) <= milliseconds(timed.model) * 1.001:
            break
    assert kept(timed.plan) >= kept(by_flops.plan)


def test_the_table_is_corrected_by_what_is_measured(dense_ms):
    """Networks that were cut take a fifth longer than the table can know."""
    made = pruner(dict(latency=0.7), lie=1.2)
    made.cut()
    attempts = made.plan.attempts
    assert len(attempts) > 1
    assert attempts[0].measured > 1.1 * attempts[0].asked
    assert abs(1.2 * milliseconds(made.model) / dense_ms / 0.7 - 1) < 0.04
    report = made.report()
    assert all(str(attempt) in report for attempt in attempts)


def test_bounds_on_other_costs_hold_too(dense_ms):
    made = pruner(dict(latency=0.75, flops=0.5, params=0.6))
    made.cut()
    dense, cost = made.mutator.complexity.cost({}), made.mutator.cost
    assert cost['macs'] <= 0.5 * dense['macs']
    assert cost['params'] <= 0.6 * dense['params']
    assert milliseconds(made.model) <= 0.76 * dense_ms


def test_the_same_share_of_every_layer(dense_ms):
    made = pruner(dict(latency=0.7, scope='layer'))
    made.cut()
    shares = [unit.num_sets / len(unit.kept) for unit in made.mutator.units]
    assert max(shares) - min(shares) < 0.2
    assert milliseconds(made.model) <= 0.71 * dense_ms


def test_a_measured_block_that_is_too_large_gives_way(monkeypatch):
    """In blocks of 32 the widths 32, 64 and 48 have too little to lose."""
    told = []
    monkeypatch.setattr('mmprune.latency.block.print_log', lambda line, **kwargs: told.append(line))
    made = pruner(dict(flops=0.3, align='auto'), block=32)
    made.cut()
    assert made.mutator.cost['macs'] <= 0.3 * made.mutator.complexity.cost({})['macs']
    assert all(count % 16 == 0 for count in made.mutator.structure.values())
    assert told == ['no structure in blocks of 32 channels, as the runtime wants them, meets the target: channels go '
                    'in blocks of 16']
    with pytest.raises(TargetError, match=r'flops=0.3 cannot be reached: .*align=32'):
        pruner(dict(flops=0.3, align=32)).cut()
    with pytest.raises(TargetError, match=r'flops=0.001 cannot be reached: .*align=1;'):
        pruner(dict(flops=0.001, align='auto'), block=32).cut()


def test_a_file_is_written_then_read(tmp_path, monkeypatch):
    path = str(tmp_path / 'table.json')
    pruner(dict(latency=0.7), table=path).cut()
    monkeypatch.setattr('mmprune.latency.meter.measure_table', None)
    pruner(dict(latency=0.6), table=path).cut()
    with pytest.raises(LatencyTableError, match='threads is 1 there and 2 here'):
        pruner(dict(latency=0.6), table=path, threads=2).cut()


@pytest.mark.parametrize('bad', [2, 3])
def test_a_table_that_cannot_be_trusted_is_measured_again(tmp_path, monkeypatch, bad):
    measured = []

    def disturbed(*args, **kwargs):
        measured.append(measure_table(*args, **kwargs))
        if len(measured) <= bad:
            measured[-1].calibration.largest_error = 0.2
        return measured[-1]

    monkeypatch.setattr('mmprune.latency.meter.measure_table', disturbed)
    made = pruner(dict(latency=0.7), table=str(tmp_path / 'table.json'))
    if bad == 2:
        made.cut()
    else:
        with pytest.raises(LatencyTableError, match='was wrong by 20%'):
            made.cut()
    assert len(measured) == 3
    assert (tmp_path / 'table.json').exists() == (bad == 2)


def test_what_the_device_does_besides_counts(dense_ms):
    made = pruner(dict(latency=0.7), rest_ms=dense_ms)
    made.cut()
    assert milliseconds(made.model) <= 0.4 * dense_ms * 1.02


@pytest.mark.parametrize(('target', 'message'), [
    (dict(latency=0.01), r'latency=0.01 cannot be reached: 0\.\d+ of the dense latency stay'),
    (dict(latency_ms=1e6), 'asks for nothing: the dense model takes'),
    (dict(latency=0.5, flops=0.001), 'flops=0.001 cannot be reached')])
def test_what_cannot_be_is_said(target, message):
    with pytest.raises(TargetError, match=message):
        pruner(target).cut()


@pytest.mark.parametrize(('target', 'message'), [
    (dict(latency=0.5, latency_ms=3.0), 'latency and latency_ms are given'),
    (dict(latency=0.5, ratio=0.3), 'ratio and latency are given'),
    (dict(latency=1.5), 'latency'), (dict(latency_ms=0), 'latency_ms'), (dict(flops=0.5, align='all'), 'align')])
def test_contradictions_are_refused(target, message):
    with pytest.raises(TargetError, match=message):
        PruningTarget(**target)


@pytest.mark.parametrize('target', [dict(latency=0.5), dict(latency_ms=1.0), dict(flops=0.5, align='auto')])
def test_without_a_runtime_the_message_says_how_to_give_one(target):
    with pytest.raises(TargetError, match=r"runtime=dict\(type='OnnxRuntime'"):
        Pruner(Streams(), X, 'L2', target=target).cut()


@pytest.mark.parametrize(('runtime', 'message'), [
    ('OnnxRuntime', 'must be a dict'), (dict(threads=2), 'must be a dict with a type'),
    (dict(RUNTIME, networks=3), 'networks'), (dict(RUNTIME, rest_ms=-1), 'rest_ms'), (dict(RUNTIME, block=0), 'block'),
    (dict(RUNTIME, input_shape=(1, 3)), 'input_shape'), (dict(RUNTIME, threads=0), 'threads')])
def test_a_wrong_runtime_is_refused_in_one_line(runtime, message):
    with pytest.raises(ValueError, match=message):
        Pruner(Streams(), X, 'L2', target=dict(latency=0.5), runtime=runtime)
