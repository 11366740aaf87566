"""Visualizers with a board get a picture of the structure when a pruned checkpoint is written."""
from types import SimpleNamespace

import numpy as np
import pytest
import toy_nets
from mmengine.visualization import BaseVisBackend, LocalVisBackend, TensorboardVisBackend, Visualizer
from toy_nets import ToyClassifier, algorithm_of

from mmprune.engine.runner import save_pruned
from mmprune.report.structure_picture import structure_image

pytest.importorskip('matplotlib')


def saved(folder, *backends):
    """Write the pruned checkpoint of a run at iteration 7 that has these backends."""
    algorithm = algorithm_of(ToyClassifier(toy_nets.Residual()), size=6)
    algorithm.mutator.apply_structure({'net.stem_(0, 6)_6': 4, 'net.conv1_(0, 5)_5': 3})
    visualizer = Visualizer(vis_backends=list(backends), save_dir=str(folder))
    runner = SimpleNamespace(work_dir=str(folder), visualizer=visualizer, iter=6,
                             save_checkpoint=lambda _, name, **kwargs: (folder / name).write_bytes(b''))
    save_pruned(runner, algorithm, 'flops_0.50.pth')
    return visualizer


class Board(BaseVisBackend):
    """Remembers its images."""

    def __init__(self):
        self.images = []

    def _init_env(self):
        pass

    @property
    def experiment(self):
        return self

    def add_image(self, name, image, step=0, **kwargs):
        self.images.append((name, image, step))


def test_board_gets_the_picture_and_the_local_one_does_not(tmp_path):
    board = Board()
    saved(tmp_path, board, LocalVisBackend(str(tmp_path)))
    (name, image, step), = board.images
    assert (name, step) == ('structure', 7)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.shape[0] > 200
    assert image.shape[1] > 1000
    assert not list(tmp_path.rglob('*.png'))


def test_picture_shows_the_structure():
    """More of the bars' colour where more stays."""
    widths = dict(a=8, b=8)
    blue = [(structure_image(dict(a=8, b=count), widths, 'x') == (0x25, 0x63, 0xab)).all(2).sum() for count in (1, 8)]
    assert 1.3 < blue[1] / blue[0] < 2


@pytest.mark.filterwarnings('ignore:distutils Version classes')  # torch 2.0
def test_tensorboard_has_it(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    visualizer = saved(tmp_path, TensorboardVisBackend(str(tmp_path)))
    visualizer.add_scalars(dict(flops_ratio=0.5), step=7)
    visualizer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Images('structure')] == [7]
    assert [event.value for event in events.Scalars('flops_ratio')] == [0.5]
