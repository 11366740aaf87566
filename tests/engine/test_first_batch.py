"""One warning where costs are counted for other images than those of the run."""
from types import SimpleNamespace

import pytest
import torch
import toy_nets
from mmengine.config import Config
from toy_nets import ToyClassifier, algorithm_of

from mmprune.engine.first_batch import watch_first_batch


def warnings_of(size, batch, scale=None, watch=1):
    """Return the warnings of a run that counts costs for one size and gets another; the test has a third."""
    texts = []
    pipeline = [] if scale is None else [dict(type='Resize', scale=scale, keep_ratio=True)]
    runner = SimpleNamespace(cfg=Config(dict(test_pipeline=pipeline)), logger=SimpleNamespace(warning=texts.append))
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=size)
    for _ in range(watch):
        watch_first_batch(runner, algorithm)
    algorithm(torch.randn(1, 3, size, size))  # tracing, not a batch
    labels = torch.zeros(2, dtype=torch.long)
    for _ in range(2):
        algorithm(torch.randn(2, 3, *batch), labels, mode='loss')
    algorithm(inputs=torch.randn(2, 3, 9, 9), data_samples=labels, mode='loss')
    return texts


def test_other_size_is_warned_of_once():
    assert warnings_of(8, (6, 12), watch=2) == [
        'costs are counted for images of 3 x 8 x 8 (input_shape), but the first batch has 3 x 6 x 12: set input_shape '
        'to the size that the model is tested on']
    assert warnings_of(8, (40, 40), (64, 64)) == [
        'costs are counted for images of 3 x 8 x 8 (input_shape), but the first batch has 3 x 40 x 40, and the test '
        'pipeline gives 3 x 64 x 64: set input_shape to the size that the model is tested on']


@pytest.mark.parametrize(('size', 'batch', 'scale'), [
    (8, (8, 8), None),
    (8, (8, 8), (64, 64)),  # the batch is as counted
    (8, (40, 40), (8, 8)),  # a training on several sizes, counted for the test
    (160, (40, 40), (150, 132))])  # alike after padding
def test_size_of_the_batch_or_of_the_test_is_right(size, batch, scale):
    assert warnings_of(size, batch, scale) == []


def test_small_images_are_compared_as_they_are():
    assert len(warnings_of(8, (9, 9), (7, 7))) == 1
