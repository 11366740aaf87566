"""Whether the images of a run have the size that costs are counted for, told at its first batch."""
import math
from typing import Any, Sequence, Tuple

from mmengine.runner import Runner
from torch import Tensor

from ..graph.input_shape import input_of_test
from ..models.pruning_algorithm import PruningAlgorithm

#: Large images are alike that have the same size after padding to a multiple of this.
STEP, LARGE = 32, 128


def watch_first_batch(runner: Runner, algorithm: PruningAlgorithm) -> None:
    """Warn at the first training batch if costs are counted for another size; once a run, whoever calls this.

    The size of the test is as good as that of the batch: a run that trains on several sizes is counted for the former.

    Args:
        runner (Runner): Its config tells the size of the test.
        algorithm (PruningAlgorithm): The runner's model, without its wrapper.
    """
    counted = getattr(algorithm.mutator.demo_input, 'input_shape', ())
    if len(counted) != 4 or getattr(algorithm, '_watches_first_batch', False):
        return
    algorithm._watches_first_batch = True

    def compare(module: Any, args: Any, kwargs: Any) -> None:
        if 'loss' not in (kwargs.get('mode'), *(arg for arg in args if isinstance(arg, str))):
            return
        handle.remove()
        inputs = kwargs.get('inputs', args[0] if args else None)
        if isinstance(inputs, Tensor) and inputs.dim() == 4:
            _compare(runner, counted[1:], tuple(inputs.shape[1:]))

    handle = algorithm.architecture.register_forward_pre_hook(compare, with_kwargs=True)


def _compare(runner: Runner, counted: Tuple[int, ...], found: Tuple[int, ...]) -> None:
    """Warn if images ``(C, H, W)`` are neither those of the first batch nor those of the test."""
    tested = (input_of_test(runner.cfg) or ())[1:]
    if counted == found or (tested and _rounded(tested) == _rounded(counted)):
        return
    test = f', and the test pipeline gives {_text(tested)}' if tested and tested != found else ''
    runner.logger.warning(f'costs are counted for images of {_text(counted)} (input_shape), but the first batch has '
                          f'{_text(found)}{test}: set input_shape to the size that the model is tested on')


def _rounded(size: Sequence[int]) -> Tuple[int, ...]:
    """Return channels, and the sides of an image, those of a large one padded; the shorter first: it may be upright."""
    step = STEP if min(size[1:]) >= LARGE else 1
    return (size[0], *sorted(math.ceil(side / step) * step for side in size[1:]))


def _text(size: Sequence[int]) -> str:
    return ' x '.join(map(str, size))
