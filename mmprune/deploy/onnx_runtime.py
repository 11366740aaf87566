"""ONNX files in onnxruntime: run them, and compare them with PyTorch."""
import os
from typing import Any, Callable, List, Optional, Union

import torch
from torch import Tensor, nn

from ..arguments import MOST_THREADS, UserError, optional_package, whole_number
from ..units.copies import double_copy
from ..units.equivalence import Deterministic
from . import logits

TOLERANCE = 1e-4  # largest relative difference between PyTorch and onnxruntime that counts as equal
CPU = 'CPUExecutionProvider'  # the provider that every onnxruntime has


class ParityError(UserError):
    """An exported file and the PyTorch model give different outputs."""


class OnnxError(UserError):
    """A file is missing, or onnxruntime cannot run it."""


def onnxruntime_package() -> Any:
    """Return the package onnxruntime.

    Raises:
        MissingPackageError: It is not installed.
    """
    return optional_package('onnxruntime', 'onnx onnxruntime')


class OnnxModel:
    """An ONNX file in a session of onnxruntime, whose runs use ``threads`` threads.

    Args:
        path (str): The file.
        threads (int): Threads of a run.
        provider (str): What runs it: an execution provider that this onnxruntime has.
        profile (str, optional): Where a profile goes, without its suffix; :meth:`end_profile` writes it.

    Raises:
        OnnxError: There is no such file, or onnxruntime cannot run it.
    """

    def __init__(self, path: Union[str, 'os.PathLike[str]'], threads: int = 1, provider: str = CPU,
                 profile: Optional[str] = None) -> None:
        whole_number('threads', threads, most=MOST_THREADS)
        onnxruntime = onnxruntime_package()
        self.path = os.fspath(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile
        state = onnxruntime.capi.onnxruntime_pybind11_state
        self._errors: Any = tuple(  # they have no base class
            kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
            first = self.session.get_inputs()[0]
            self.input_name = first.name
            #: whether it takes any number of images
            self.any_batch = not isinstance(first.shape[0], int)
        except (*self._errors, RuntimeError, ValueError, LookupError) as error:
            raise OnnxError(f'{self.path!r} is no ONNX file that onnxruntime can run ({_short(error)})') from None

    def close(self) -> None:
        """End the session: its memory and its threads go; the model cannot be run any more."""
        self.session = None

    def end_profile(self) -> str:
        """Write the profile of all runs so far; return the path of its json file."""
        return str(self.session.end_profiling())

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


def check_parity(onnx_model: Callable[[Tensor], List[Tensor]], model: nn.Module, x: Tensor,
                 tolerance: float = TOLERANCE) -> float:
    """Compare an exported file with the PyTorch module it was made from; class scores are compared as logits.

    Args:
        onnx_model (Callable): The file: an :class:`OnnxModel`, or its run in another runtime.
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
