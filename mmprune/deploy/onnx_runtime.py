"""ONNX files in onnxruntime: run them, compare them with PyTorch, and time them in turns with other models."""
import math
import os
import statistics
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple, Union

import torch
from torch import Tensor, nn

from ..arguments import MissingPackageError, UserError
from ..units.copies import double_copy
from ..units.equivalence import Deterministic
from . import logits

TOLERANCE = 1e-4  # largest relative difference between PyTorch and onnxruntime that counts as equal
LEAST_ROUNDS = 3  # turns that are run whatever the time budget


class ParityError(UserError):
    """An exported file and the PyTorch model give different outputs."""


class OnnxError(UserError):
    """A file is missing, or onnxruntime cannot run it."""


class OnnxModel:
    """An ONNX file on the CPU, whose runs use ``threads`` threads.

    Raises:
        OnnxError: There is no such file, or onnxruntime cannot run it.
    """

    def __init__(self, path: Union[str, 'os.PathLike[str]'], threads: int = 1) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise UserError(f'threads is {threads!r}; it must be 1 or more')
        try:
            import onnxruntime  # an optional dependency
        except ImportError as error:
            raise MissingPackageError('onnxruntime is not installed: pip install onnx onnxruntime') from error
        self.path = os.fspath(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        state = onnxruntime.capi.onnxruntime_pybind11_state
        self._errors: Any = tuple(  # they have no base class
            kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
            first = self.session.get_inputs()[0]
            self.input_name = first.name
            #: whether it takes any number of images
            self.any_batch = not isinstance(first.shape[0], int)
        except (*self._errors, RuntimeError, ValueError, LookupError) as error:
            raise OnnxError(f'{self.path!r} is no ONNX file that onnxruntime can run ({_short(error)})') from None

    def __call__(self, x: Tensor) -> List[Tensor]:
        """Return all outputs for the input ``Tensor[N, C, H, W]``.

        Raises:
            OnnxError: The file cannot take it.
        """
        try:
            return [torch.from_numpy(value) for value in self.session.run(None, {self.input_name: x.cpu().numpy()})]
        except (*self._errors, TypeError, ValueError) as error:
            raise OnnxError(f'{self.path!r} cannot be run on an input of shape {tuple(x.shape)} '
                            f'({_short(error)})') from None


def _short(error: Exception) -> str:
    return ' '.join(str(error).split())[:200]


def check_parity(onnx_model: OnnxModel, model: nn.Module, x: Tensor, tolerance: float = TOLERANCE) -> float:
    """Compare an exported file with the PyTorch module it was made from; class scores are compared as logits.

    Args:
        onnx_model (OnnxModel): The file.
        model (nn.Module): Gives the same outputs, in eval mode; see :class:`DeployOutput`.
        x (Tensor[N, C, H, W]): A real input.
        tolerance (float): Largest difference allowed, relative to the largest value of each output, or to its largest
            logit where it ends in a softmax or sigmoid. A deep network that amplifies rounding may exceed it by
            PyTorch's own difference of float32 from float64, up to ten tolerances.

    Returns:
        float: The largest relative difference.

    Raises:
        ParityError: It is above the tolerance, or shapes differ.
    """
    wanted, functions = logits.run(model, x)
    found = onnx_model(x)
    difference = logits.difference(wanted, found, functions)
    limit = tolerance
    if tolerance < difference <= 11 * tolerance:
        limit += min(_rounding(model, x, wanted, functions), 10 * tolerance)
    if not difference <= limit:
        raise ParityError(f'{logits.where(wanted, found, functions)}, more than {limit:.3g}. The file must not be '
                          'deployed: export it again from this checkpoint; if it still differs, an operator is '
                          'exported wrongly, and the other --exporter may know it')
    return difference


def _rounding(model: nn.Module, x: Tensor, outputs: List[Tensor], functions: logits.Functions) -> float:
    """Return the relative difference of outputs in float32 from those of the model in float64."""
    with Deterministic():
        exact, _ = logits.run(double_copy(model), x.double())
    return logits.difference(exact, outputs, functions)


class Latency(NamedTuple):
    """Times of a model in milliseconds, under the load that the machine had."""

    median: float
    rounds: Tuple[float, ...]  # every timed run, in order

    def speedup_over(self, other: 'Latency') -> float:
        """Return the median over rounds of the other model's time over this model's.

        Both ran in turns, so each round compares them under the same load; the ratio of two medians does not.
        """
        return statistics.median(theirs / own for own, theirs in zip(self.rounds, other.rounds))


def measure_latency(runs: Mapping[str, Callable[[], Any]], rounds: int = 30,
                    seconds: float = math.inf) -> Dict[str, Latency]:
    """Time several models in turns, A B C A B C, so that a slow spell of the machine hits all of them.

    Args:
        runs (dict[str, Callable]): Name -> a run of a model. Every turn runs it twice and times the second run.
        rounds (int): Turns.
        seconds (float): No further turn begins when this time is spent, except for the first three.

    Returns:
        dict[str, Latency]: Name -> milliseconds.
    """
    if rounds < 1:
        raise UserError(f'rounds is {rounds}; it must be 1 or more')
    times: Dict[str, List[float]] = {name: [] for name in runs}
    spent = 0.0
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and spent >= seconds:
            break
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
            spent += 2 * times[name][-1]
    return {name: Latency(1e3 * statistics.median(values), tuple(1e3 * value for value in values))
            for name, values in times.items()}


def latency_of_both(run: Callable[[], Any], onnx_model: OnnxModel, x: Tensor, threads: int,
                    rounds: int) -> Dict[str, Latency]:
    """Time a run of ``PyTorch`` and of ``onnxruntime`` on an input with the same number of threads, in turns."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            return measure_latency({'PyTorch': run, 'onnxruntime': lambda: onnx_model(x)}, rounds)
    finally:
        torch.set_num_threads(before)


def compare(path: Union[str, 'os.PathLike[str]'], model: nn.Module, x: Tensor, threads: int = 1,
            rounds: int = 30) -> Tuple[float, Dict[str, Latency]]:
    """Return the largest relative difference of an exported file from PyTorch, and the latencies of both.

    A file that takes any batch is checked on twice as many images, too: code that computes with the batch size in
    Python, as Swin's windows, is exported with that of its example.

    Raises:
        ParityError: The outputs differ.
    """
    onnx_model = OnnxModel(path, threads)
    try:
        difference = check_parity(onnx_model, model, x)
    except ParityError as error:
        raise ParityError(f'{onnx_model.path!r}: {error}') from None
    if onnx_model.any_batch:
        batch = torch.cat([x, x.flip(-1)])
        with torch.no_grad():
            model(batch)  # a model that cannot take it says so itself
        try:
            difference = max(difference, check_parity(onnx_model, model, batch))
        except (ParityError, OnnxError) as error:
            raise ParityError(f'the file takes any batch size, but is wrong for {len(batch)} images where its example '
                              f'had {len(x)}: export it with a fixed one. {error}') from error
    return difference, latency_of_both(lambda: model(x), onnx_model, x, threads, rounds)


def format_comparison(path: Union[str, 'os.PathLike[str]'], difference: float, latency: Mapping[str, Latency],
                      threads: int) -> str:
    """Return the lines that the export tools print at their end."""
    return '\n'.join([f'{path}: parity with PyTorch, largest relative difference {difference:.1e}',
                      *(f'  {name:<12} {value.median:8.2f} ms ({threads} thread{"s" * (threads > 1)})'
                        for name, value in latency.items())])
