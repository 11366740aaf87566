"""Find the divisor that makes a pruned model fastest in a runtime: export, check and time all of them."""
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..arguments import UserError, check_divisor
from ..graph.demo_input import DemoInput
from ..graph.grouping import build_graph
from ..units.complexity import Complexity
from .beside_dense import verdict
from .load import RANDOM, input_shape, load_model, with_divisor
from .onnx_export import DeployOutput
from .onnx_runtime import check_parity
from .runtimes.onnx_runtime import OnnxRuntime
from .runtimes.runtime import Description, Runtime, in_words
from .timing import Candidate, Timing, measure

DIVISORS = (1, 2, 4, 8, 16, 32)


@dataclass
class DivisorResult:
    """A row of the search: the dense model, or the pruned model under a divisor."""

    divisor: Optional[int]  # None for the dense model
    macs: int  # multiply-adds of conv and linear layers
    params: int
    latency_ms: float  # median of the runs
    quartiles_ms: Tuple[float, float]  # first and third quartile of the runs
    images_per_second: float
    speedup: float  # how many times as fast as the dense model: median over the turns, in which both were timed
    parity: float  # largest relative difference between the runtime and PyTorch
    rounds: int  # timed runs

    @property
    def name(self) -> str:
        """``dense`` or the divisor."""
        return 'dense' if self.divisor is None else str(self.divisor)


class Search(NamedTuple):
    """What a search found, where, and what was wrong with the machine meanwhile."""

    results: List[DivisorResult]  # the dense model, then each divisor
    about: Description  # of the runtime
    warnings: Tuple[str, ...]

    @property
    def fastest(self) -> DivisorResult:
        """The divisor with the largest speed-up."""
        return max((result for result in self.results if result.divisor is not None),
                   key=lambda result: result.speedup)

    def as_json(self) -> Dict[str, Any]:
        """Return what ``--json`` writes."""
        return {'threads': self.about['threads'], 'runtime': self.about, 'warnings': list(self.warnings),
                'fastest': self.fastest.divisor, 'results': [asdict(result) for result in self.results]}


class _Exported(NamedTuple):
    cost: Dict[str, int]
    source: Any  # what the runtime opens
    parity: float


def search(cfg: Mapping[str, Any], checkpoint: str = RANDOM, divisors: Sequence[int] = DIVISORS,
           shape: Optional[Sequence[int]] = None, runtime: Optional[Runtime] = None, rounds: int = 100,
           seconds: float = math.inf) -> Search:
    """Measure the dense model, and the pruned model under every divisor.

    Args:
        cfg (Config): A deploy config.
        checkpoint (str): Of the pruned model; ``none`` for random weights, on which latency does not depend.
        divisors (list[int]): What to try.
        shape (tuple[int], optional): Input ``(N, C, H, W)``; by default that of the config.
        runtime (Runtime, optional): Where; by default onnxruntime with one thread.
        rounds (int): Timed runs of each model.
        seconds (float): Time budget of these runs; heavy models get fewer, at least three.

    Raises:
        UserError: A divisor is not a whole number of at least 1, or no divisor is given.
        StructureError: The config is not a deploy config.
        ParityError: An exported file and PyTorch give different outputs.
    """
    if not divisors:
        raise UserError('there is no divisor to try')
    for divisor in divisors:
        check_divisor(divisor)
    runtime = runtime or OnnxRuntime()
    x = torch.randn(tuple(shape or input_shape(cfg)), generator=torch.Generator().manual_seed(0))
    choices: List[Optional[int]] = [None, *dict.fromkeys(divisors)]
    with tempfile.TemporaryDirectory() as folder:
        exported = {divisor: _export(with_divisor(cfg, divisor), RANDOM if divisor is None else checkpoint, x,
                                     Path(folder) / f'{divisor}.onnx', runtime) for divisor in choices}
        timing = measure({str(divisor): Candidate(runtime, item.source) for divisor, item in exported.items()}, x,
                         rounds, seconds)
    return Search([_row(divisor, item, timing) for divisor, item in exported.items()], runtime.describe(),
                  timing.warnings)


def _row(divisor: Optional[int], exported: _Exported, timing: Timing) -> DivisorResult:
    latency = timing[str(divisor)]
    return DivisorResult(divisor, exported.cost['macs'], exported.cost['params'], latency.median, latency.quartiles,
                         latency.images_per_second, latency.speedup_over(timing[str(None)]), exported.parity,
                         len(latency.runs))


def _export(cfg: Mapping[str, Any], checkpoint: str, x: Tensor, path: Path, runtime: Runtime) -> _Exported:
    model = load_model(cfg, checkpoint)
    cost = model_cost(model, tuple(x.shape))
    source = runtime.prepare(model, x, path)
    with runtime.opened(source, x) as run:
        parity = check_parity(lambda _: run(), DeployOutput(model).eval(), x)
    return _Exported(cost, source, parity)


def model_cost(model: nn.Module, shape: Tuple[int, ...]) -> Dict[str, int]:
    """Return ``{'macs', 'params', 'acts'}`` of a model for one sample of a batch ``(N, C, H, W)``, padding included."""
    return Complexity.of(model, build_graph(model, DemoInput((1, *shape[1:])))).cost({})


def format_results(found: Search, title: str = '') -> str:
    """Return a markdown table with a row for each result, and a line that names the fastest divisor."""
    lines = [title, ''] if title else []
    lines += ['| divisor | FLOPs (M) | params (M) | latency (ms) | quartiles (ms) | images/s | speed-up over dense |',
              '| --- | ---: | ---: | ---: | ---: | ---: | ---: |']
    lines += [f'| {result.name} | {result.macs / 1e6:.1f} | {result.params / 1e6:.2f} | {result.latency_ms:.2f} | '
              f'{result.quartiles_ms[0]:.2f} to {result.quartiles_ms[1]:.2f} | {result.images_per_second:.1f} | '
              f'{result.speedup:.2f} |' for result in found.results]
    best = found.fastest
    return '\n'.join([*lines, '', f'{in_words(found.about)}, median of {best.rounds} runs; {found.about["cpu"]}',
                      *(f'warning: {text}' for text in found.warnings),
                      verdict(best.speedup, f'fastest: divisor {best.divisor}, {best.latency_ms:.2f} ms')])
