"""Moments block by block against numpy's covariances, and least squares that share a factored system."""
import numpy as np
import pytest
import torch

from mmprune.repair import moments
from mmprune.repair.moments import LeastSquares, Sums


def samples(count=90, groups=2, inputs=7, outputs=3):
    torch.manual_seed(0)
    return (torch.randn(groups, size, count, dtype=torch.float64) + 5 for size in (inputs, outputs))


@pytest.mark.parametrize('block', [1, 3, 6, 7, 1024])
def test_moments_are_numpys_covariances_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(moments, 'BLOCK', block)
    x, y = samples()
    sums = Sums()
    for part in torch.arange(90).split(25):
        sums.add(x[:, :, part], y[:, :, part])
    assert sums.count == 90
    for found in (sums.moments(), sums.moments()):
        for group in range(2):
            expected = np.cov(torch.cat([x, y], 1)[group].numpy(), bias=True)
            assert found.xx[group].numpy() == pytest.approx(expected[:7, :7])
            assert found.yx[group].numpy() == pytest.approx(expected[7:, :7])
            assert found.yy[group].numpy() == pytest.approx(expected[7:, 7:].diagonal())
        assert found.x.numpy() == pytest.approx(x.mean(2).numpy())
        assert found.y.numpy() == pytest.approx(y.mean(2).numpy())


@pytest.mark.parametrize('count', [90, 5])
def test_one_system_serves_several_outputs_and_strengths(count):
    """Also one that cannot be factored, for there are fewer samples than inputs."""
    x, y = samples(count)
    both = []
    for wanted in (y, y.square()):
        sums = Sums()
        sums.add(x, wanted)
        both.append(sums.moments())
    linear = LeastSquares(both[0], torch.zeros(2, 3, 7, dtype=torch.float64))
    for ridge in (0.0, 0.1, 0.0):
        for one in both:
            weight, offset = linear.solved(ridge, one)
            expected = LeastSquares(one, linear.prior).solved(ridge)
            assert torch.allclose(weight, expected[0])
            assert torch.allclose(offset, expected[1])
            if ridge == 0:  # where many are right, the least, each input by its variance
                centred = (x - x.mean(2, keepdim=True))[0].numpy().T
                size = np.sqrt((centred ** 2).mean(0))
                found = np.linalg.lstsq(centred / size, (y if one is both[0] else y.square())[0].numpy().T,
                                        rcond=None)[0]
                assert weight[0].numpy() * size == pytest.approx(found.T, rel=1e-5, abs=1e-6)
