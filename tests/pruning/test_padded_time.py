"""The benchmark's target in multiply-adds that ends at a time: what it leaves, padded, takes what is asked."""
import sys

import pytest
import torch
from layer_runtime import FakeRuntime, Streams
from paths import ROOT

from mmprune import Pruner
from mmprune.latency.meter import Meter
from mmprune.latency.pruned_copy import PrunedCopy

sys.path.insert(0, str(ROOT / 'benchmarks'))
try:
    import padded_time
    import timed_structures
finally:
    sys.path.pop(0)

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def calibrated():
    torch.manual_seed(0)
    pruner = Pruner(Streams(), X, 'L2', target=dict(flops=0.9))
    pruner.calibrate(list(IMAGES.split(5)))
    return pruner


@pytest.mark.parametrize(('align', 'rounds'), [(1, 2), (4, 'auto')])
def test_what_is_deployed_takes_the_time_of_the_other_network(align, rounds):
    pruner = calibrated()
    table = Meter(dict(type='FakeRuntime', block=4, networks=16), pruner.mutator).table()
    exact = PrunedCopy(pruner.mutator)
    milliseconds = [FakeRuntime().exact_ms(exact.cut_to(exact.dense()), X)]

    def shares_of(structures):  # all that is cut takes a tenth longer than the table knows
        return [1.1 * FakeRuntime().exact_ms(exact.cut_to(counts), X) / milliseconds[0] for counts in structures]

    beside = {name: sets * 5 // 8 for name, sets in exact.dense().items()}
    done = padded_time.PaddedTime(pruner, table, align, shares_of, beside).cut_in_rounds(rounds)
    assert len(done) == rounds if rounds != 'auto' else len(done) > 2
    counts, deployed = padded_time.widths(pruner, table.block)
    assert all(deployed[name] - counts[name] in range(4) and deployed[name] % 4 == 0 for name in counts)
    assert (counts == deployed) == (align == 4)
    wanted, share = shares_of([beside, deployed])
    assert share == pytest.approx(wanted, rel=0.03)  # a block of a unit takes as much


def test_padding_ends_at_the_dense_width():
    masks = {'a': torch.arange(10).numpy() < 9, 'b': torch.arange(8).numpy() < 1, 'c': torch.arange(8).numpy() < 4}
    assert timed_structures.padded(masks, 4) == dict(a=10, b=4, c=4)
    assert timed_structures.counts_of(masks) == dict(a=9, b=1, c=4)
