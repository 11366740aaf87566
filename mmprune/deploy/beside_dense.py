"""Time a pruned model beside the dense one that it came from: pruning that does not make it faster is told."""
import tempfile
import time
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Tuple

from torch import Tensor, nn

from ..arguments import UserError
from ..models.from_config import dense_config
from .load import RANDOM, load_model
from .runtimes.runtime import Runtime
from .timing import Candidate, Clock, Timing, measure

#: Seconds after which no further turn begins; there are three at least.
BUDGET = 60.0


class NotFasterError(UserError):
    """A pruned model is not faster than the dense one, where that was required."""


class BesideDense(NamedTuple):
    """How fast a pruned model is beside the dense one."""

    timing: Timing  # of ``dense`` and ``pruned``

    @property
    def speedup(self) -> float:
        """How many times as fast as the dense model: the median over the turns."""
        return self.timing['pruned'].speedup_over(self.timing['dense'])

    def __str__(self) -> str:
        return f'{self.timing}\n{verdict(self.speedup)}'


def is_pruned(cfg: Mapping[str, Any]) -> bool:
    """Tell whether a config is that of a finetuned or deployed model, which has a dense one to be compared with."""
    return dense_config(cfg)[1] is not None


def beside_dense(cfg: Mapping[str, Any], pruned: Any, x: Tensor, runtime: Runtime, rounds: int = 30,
                 seconds: float = BUDGET, clock: Clock = time.perf_counter, folder: Optional[Path] = None
                 ) -> BesideDense:
    """Time a pruned model and the dense one of its config, with random weights, in turns.

    Args:
        cfg (Config): A deploy or finetune config.
        pruned (nn.Module or str): The model, or what the runtime made of it.
        x (Tensor[N, C, H, W]): The input.
        runtime (Runtime): Runs both.
        rounds (int): Timed runs of each.
        seconds (float): Time budget.
        clock (Callable): Returns seconds.
        folder (Path, optional): Where what was prepared stays, see :func:`prepared_pair`; nowhere by default.
    """
    with tempfile.TemporaryDirectory() as temporary:
        pair = prepared_pair(cfg, pruned, x, runtime, folder or Path(temporary))
        candidates = {name: Candidate(runtime, source) for name, source in zip(('dense', 'pruned'), pair)}
        return BesideDense(measure(candidates, x, rounds, seconds, clock))


def prepared_pair(cfg: Mapping[str, Any], pruned: Any, x: Tensor, runtime: Runtime, folder: Path) -> Tuple[Any, Any]:
    """Return what a runtime opens for the dense model of a config, with random weights, and for a pruned one.

    Args:
        cfg (Config): A deploy or finetune config.
        pruned (nn.Module or str): The model, or what the runtime made of it.
        x (Tensor[N, C, H, W]): The input.
        runtime (Runtime): Prepares both.
        folder (Path): Where ``dense.onnx`` goes, and ``pruned.onnx`` of a model.
    """
    other = {**{key: value for key, value in cfg.items() if key != 'model'}, 'model': dense_config(cfg)[0],
             'input_shape': tuple(x.shape)}
    dense = runtime.prepare(load_model(other, RANDOM), x, folder / 'dense.onnx')
    if isinstance(pruned, nn.Module):
        pruned = runtime.prepare(pruned, x, folder / 'pruned.onnx')
    return dense, pruned


def verdict(speedup: float, what: str = 'pruned') -> str:
    """Return a line that says how fast a model is beside the dense one, and whether it is not faster."""
    line = f'{what}: {speedup:.2f} times as fast as dense'
    return line if speedup > 1 else f'{line}, so it is not faster'


def check_comparable(require: bool, cfg: Mapping[str, Any], name: str) -> None:
    """Raise UserError if ``--require-faster`` is given for a config that has no dense model to be compared with.

    Args:
        require (bool): It is given.
        cfg (Config): The config.
        name (str): Its path, for the message.
    """
    if require and not is_pruned(cfg):
        raise UserError(f'--require-faster: {name} is the config of a dense model; give the deploy config of a pruned '
                        'one')


def require_faster(speedup: float, what: str = 'pruned') -> None:
    """Raise NotFasterError unless a model is faster than the dense one."""
    if not speedup > 1:
        raise NotFasterError(f'--require-faster: {verdict(speedup, what)}; try other divisors (mmprune divisor), or '
                             'prune more')
