"""How many images and positions a layer is solved by, and that no other image runs up to it."""
import copy

import pytest
import torch
from torch import nn

from mmprune import Pruner
from mmprune.repair import sampling
from mmprune.repair.refit import repair
from mmprune.repair.sampling import enough_samples, spread


@pytest.mark.parametrize(('unknowns', 'places', 'images', 'most', 'expected'), [
    (9, 3136, 500, 200, (100, 18)),  # a depthwise convolution: few images, few positions of each
    (144, 3136, 500, 200, (144, 200)),  # all positions that may be, so few images
    (576, 196, 500, 200, (500, 196)),  # all images and positions
    (1280, 1, 500, 200, (500, 1)),  # a classifier
    (9, 3136, 60, 200, (60, 30)),
    (1, 3136, 500, 200, (100, 8)),
    (1, 4, 500, 200, (100, 4)),
    (9, 3136, 500, 3, (500, 3)),
    (9, 0, 500, 200, (500, 0)),  # it returned nothing
])
def test_as_few_images_as_have_positions_enough(unknowns, places, images, most, expected, monkeypatch):
    monkeypatch.setattr(sampling, 'SAMPLES', 200)
    monkeypatch.setattr(sampling, 'LEAST_IMAGES', 100)
    found = enough_samples(unknowns, places, images, most)
    used, positions = expected
    assert found.images == used
    assert found.share == pytest.approx(positions / max(1, places))
    assert found.samples == used * positions


def test_a_share_of_numbers_is_evenly_spread():
    assert spread(range(10), 0.2) == [2, 7]
    assert spread([3, 5, 8], 0.01) == [5]
    assert spread([3, 5, 8], 1.0) == [3, 5, 8]
    assert spread([3, 5, 8], 0.34) == [3, 8]
    for size in range(1, 40):
        for count in range(1, size + 1):
            found = spread(range(size), count / size)
            assert len(set(found)) == len(found) >= count
            gaps = {after - before for before, after in zip(found, found[1:])}
            assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_a_layer_is_solved_by_the_images_that_it_needs(monkeypatch):
    """The middle one of three has 45 inputs: 40 samples for each are 20 images of 90 positions; 4 are held back."""
    monkeypatch.setattr(sampling, 'SAMPLES', 40)
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Conv2d(8, 64, 3))
    images = torch.randn(100, 3, 16, 16)
    rows = {}
    for least in (20, 100):
        monkeypatch.setattr(sampling, 'LEAST_IMAGES', least)
        pruner = Pruner(copy.deepcopy(dense), images[:1], ratio=0.4)
        pruner.cut()
        assert pruner.model[2].weight[0].numel() == 45
        rows[least] = 0

        def count(module, args, least=least):
            rows[least] += len(args[0])

        pruner.model[2].register_forward_pre_hook(count)
        done = repair(pruner.mutator, dense, images.split(2), positions=100)
        assert done.layers['2'].applied
        assert done.layers['2'].samples == (16 * 90 if least == 20 else 80 * 18)
        assert done.after < 0.5 * done.before
    assert rows[100] - rows[20] == 80  # no other image runs up to it to solve it
