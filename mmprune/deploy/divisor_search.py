"""Find the divisor that makes a pruned model fastest in onnxruntime: export, check and time all of them."""
import functools
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
from .load import RANDOM, input_shape, load_model, with_divisor
from .onnx_export import export_onnx
from .onnx_runtime import OnnxModel, check_parity, measure_latency

DIVISORS = (1, 2, 4, 8, 16, 32)


@dataclass
class DivisorResult:
    """A row of the search: the dense model, or the pruned model under a divisor."""

    divisor: Optional[int]  # None for the dense model
    macs: int  # multiply-adds of conv and linear layers
    params: int
    latency_ms: float  # median of the runs in onnxruntime
    speedup: float  # how many times as fast as the dense model: median over the rounds, which time both in turns
    parity: float  # largest relative difference between onnxruntime and PyTorch
    rounds: int  # timed runs

    @property
    def name(self) -> str:
        """``dense`` or the divisor."""
        return 'dense' if self.divisor is None else str(self.divisor)


class _Candidate(NamedTuple):
    cost: Dict[str, int]
    onnx_model: OnnxModel
    parity: float


def search(cfg: Mapping[str, Any], checkpoint: str = RANDOM, divisors: Sequence[int] = DIVISORS,
           shape: Optional[Sequence[int]] = None, threads: int = 1, rounds: int = 100,
           seconds: float = math.inf) -> List[DivisorResult]:
    """Measure the dense model, and the pruned model under every divisor.

    Args:
        cfg (Config): A deploy config.
        checkpoint (str): Of the pruned model; ``none`` for random weights, on which latency does not depend.
        divisors (list[int]): What to try.
        shape (tuple[int], optional): Input ``(N, C, H, W)``; by default that of the config.
        threads (int): Threads of onnxruntime.
        rounds (int): Timed runs of each model.
        seconds (float): Time budget of these runs; heavy models get fewer, at least three.

    Returns:
        list[DivisorResult]: The dense model, then each divisor.

    Raises:
        UserError: A divisor is not a whole number of at least 1, or no divisor is given.
        StructureError: The config is not a deploy config.
        ParityError: An exported file and PyTorch give different outputs.
    """
    if not divisors:
        raise UserError('there is no divisor to try')
    for divisor in divisors:
        check_divisor(divisor)
    x = torch.randn(tuple(shape or input_shape(cfg)), generator=torch.Generator().manual_seed(0))
    choices: List[Optional[int]] = [None, *dict.fromkeys(divisors)]
    with tempfile.TemporaryDirectory() as folder:
        candidates = {divisor: _export(with_divisor(cfg, divisor), RANDOM if divisor is None else checkpoint, x,
                                       Path(folder) / f'{divisor}.onnx', threads) for divisor in choices}
    latency = measure_latency({str(divisor): functools.partial(candidate.onnx_model, x)
                               for divisor, candidate in candidates.items()}, rounds, seconds)
    return [DivisorResult(divisor, candidate.cost['macs'], candidate.cost['params'], latency[str(divisor)].median,
                          latency[str(divisor)].speedup_over(latency['None']), candidate.parity,
                          len(latency[str(divisor)].rounds))
            for divisor, candidate in candidates.items()]


def _export(cfg: Mapping[str, Any], checkpoint: str, x: Tensor, path: Path, threads: int) -> _Candidate:
    model = load_model(cfg, checkpoint)
    cost = model_cost(model, tuple(x.shape))
    wrapped = export_onnx(model, x, path)
    onnx_model = OnnxModel(path, threads)
    return _Candidate(cost, onnx_model, check_parity(onnx_model, wrapped, x))


def model_cost(model: nn.Module, shape: Tuple[int, ...]) -> Dict[str, int]:
    """Return ``{'macs', 'params', 'acts'}`` of a model for one sample of a batch ``(N, C, H, W)``, padding included."""
    return Complexity.of(model, build_graph(model, DemoInput((1, *shape[1:])))).cost({})


def fastest(results: Sequence[DivisorResult]) -> DivisorResult:
    """Return the divisor with the largest speed-up."""
    return max((result for result in results if result.divisor is not None), key=lambda result: result.speedup)


def format_results(results: Sequence[DivisorResult], title: str = '') -> str:
    """Return a markdown table with a row for each result, and a line that names the fastest divisor."""
    lines = [title, ''] if title else []
    lines += ['| divisor | FLOPs (M) | params (M) | latency (ms) | speed-up over dense |',
              '| --- | ---: | ---: | ---: | ---: |']
    lines += [f'| {result.name} | {result.macs / 1e6:.1f} | {result.params / 1e6:.2f} | {result.latency_ms:.2f} | '
              f'{result.speedup:.2f} |' for result in results]
    best = fastest(results)
    return '\n'.join([*lines, '', f'fastest: divisor {best.divisor}, {best.latency_ms:.2f} ms, '
                                  f'{best.speedup:.2f} times as fast as dense'])


def as_json(results: Sequence[DivisorResult], threads: int) -> Dict[str, Any]:
    """Return what ``--json`` writes."""
    return {'threads': threads, 'fastest': fastest(results).divisor, 'results': [asdict(result) for result in results]}
