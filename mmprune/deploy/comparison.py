"""Compare an exported file with PyTorch and time both."""
import os
from typing import Any, Callable, Tuple, Union

import torch
from torch import Tensor, nn

from .onnx_runtime import OnnxError, OnnxModel, ParityError, check_parity
from .runtimes.onnx_runtime import OnnxRuntime
from .runtimes.pytorch import Torch
from .timing import Candidate, Timing, measure


def latency_of_both(run: Callable[[Tensor], Any], path: Union[str, 'os.PathLike[str]'], x: Tensor, threads: int,
                    rounds: int) -> Timing:
    """Time a model of ``PyTorch`` and a file in ``onnxruntime`` on an input with the same number of threads, in turns.

    Args:
        run (Callable): The model: a function of the input.
        path (str): The file.
        x (Tensor[N, C, H, W]): The input.
        threads (int): Threads of both.
        rounds (int): Timed runs of each.
    """
    return measure({'PyTorch': Candidate(Torch(threads), run),
                    'onnxruntime': Candidate(OnnxRuntime(threads), path)}, x, rounds)


def check_file(path: Union[str, 'os.PathLike[str]'], model: nn.Module, x: Tensor, threads: int = 1) -> float:
    """Return the largest relative difference of an exported file from PyTorch.

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
    return difference


def compare(path: Union[str, 'os.PathLike[str]'], model: nn.Module, x: Tensor, threads: int = 1,
            rounds: int = 30) -> Tuple[float, Timing]:
    """Return the largest relative difference of an exported file from PyTorch, and the latencies of both.

    Raises:
        ParityError: The outputs differ; see :func:`check_file`.
    """
    return check_file(path, model, x, threads), latency_of_both(model, path, x, threads, rounds)


def format_comparison(path: Union[str, 'os.PathLike[str]'], difference: float, timing: Timing) -> str:
    """Return the lines that the export tools print."""
    return f'{path}: parity with PyTorch, largest relative difference {difference:.1e}\n{timing}'
