"""PyTorch itself, eager or compiled, on the CPU or a GPU."""
import copy
import statistics
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch
from torch import Tensor, nn

from ...arguments import UserError, short, whole_number
from ...graph.nested import output_tensors
from ...graph.watching import watched
from ...registry import RUNTIMES
from ..onnx_export import DeployOutput
from .runtime import WARM_UP, NodeTime, Path, Run, Runtime


@RUNTIMES.register_module()
class Torch(Runtime):
    """Runs modules by PyTorch, without gradients.

    Args:
        threads (int): Threads of a run on the CPU; PyTorch has its former number again when a model is closed.
        compiled (bool): Compile the model by ``torch.compile`` when it is opened.
        device (str): Where it runs, such as ``cpu`` or ``cuda:0``; a run elsewhere than on the CPU ends when the device
            has finished.

    Raises:
        UserError: There is no such device, or this PyTorch has no CUDA.
    """

    name = 'PyTorch'

    def __init__(self, threads: int = 1, compiled: bool = False, device: str = 'cpu') -> None:
        super().__init__(threads)
        self.device = _device(device)
        self.compiled = compiled

    def version(self) -> str:
        """Return the version of PyTorch."""
        return str(torch.__version__)

    def device_name(self) -> str:
        """Return the device, or the name of the GPU, and whether models are compiled."""
        is_gpu = self.device.type == 'cuda'
        name = torch.cuda.get_device_name(self.device) if is_gpu else str(self.device)
        return f'{name}, compiled' if self.compiled else name

    def prepare(self, model: nn.Module, x: Tensor, path: Path) -> nn.Module:
        """Return a module with the outputs of an exported file, on the device; no file is written."""
        on_device = all(parameter.device == self.device for parameter in model.parameters())
        return DeployOutput(model if on_device else copy.deepcopy(model).to(self.device)).eval()

    @contextmanager
    def opened(self, source: Callable[[Tensor], Any], x: Tensor) -> Iterator[Run]:
        """Move the input to the device and set the number of threads; the number before is set at the end.

        What was compiled is forgotten at the end, in the whole process: after eight models of one class PyTorch would
        run the next ones eagerly, without a word, and a model of another shape with kernels for any shape.

        Args:
            source (Callable): The module, or any other function of the input.
            x (Tensor[N, C, H, W]): The input.

        Raises:
            UserError: It cannot be compiled here.
        """
        before, there = torch.get_num_threads(), x.to(self.device)
        torch.set_num_threads(self.threads)
        try:
            function = _compiled(source, there) if self.compiled else source

            def run() -> List[Tensor]:
                with torch.no_grad():
                    found = output_tensors(function(there))
                _wait_for(self.device)
                return found

            yield run
        finally:
            torch.set_num_threads(before)
            if self.compiled:
                _forget_compiled()

    def profiled(self, source: Callable[[Tensor], Any], x: Tensor, runs: int = 12) -> List[NodeTime]:
        """Return what each module without children took, in the order of the forward pass; a compiled model is one.

        Raises:
            UserError: The model is compiled, or no module.
        """
        if self.compiled or not isinstance(source, nn.Module):
            raise UserError('a compiled model is one piece, whose layers take no time of their own; compiled=False '
                            'tells what those of the same model take')
        calls = _Calls(self.device)
        leaves = [item for item in source.named_modules() if not [*item[1].children()]]
        with self.opened(source, x) as run, watched(leaves, before=calls.before, after=calls.after):
            for _ in range(WARM_UP + whole_number('runs', runs)):
                calls.counts.clear()
                run()
        return [NodeTime(name, type(module).__name__, statistics.median(times[WARM_UP:]), inputs, outputs)
                for name, (module, inputs, outputs, times) in calls.found.items()]


Shapes = Tuple[Tuple[int, ...], ...]


class _Calls:
    """The calls of modules, each with its shapes and times; a module that is called twice in a run is two."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counts: Dict[str, int] = {}
        self.found: Dict[str, Tuple[nn.Module, Shapes, Shapes, List[float]]] = {}

    def _now(self) -> float:
        _wait_for(self.device)
        return time.perf_counter()

    def before(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._began = self._now()

    def after(self, name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        milliseconds = 1e3 * (self._now() - self._began)
        self.counts[name] = self.counts.get(name, 0) + 1
        weights = tuple(tuple(parameter.shape) for parameter in module.parameters(recurse=False))
        key = f'{name} ({self.counts[name]})'
        if key not in self.found:
            self.found[key] = (module, _shapes(args) + weights, _shapes(out), [])
        self.found[key][3].append(milliseconds)


def _shapes(value: Any) -> Shapes:
    return tuple(tuple(tensor.shape) for tensor in output_tensors(value))


def _device(device: str) -> torch.device:
    """Return a device that PyTorch can use here and wait for.

    Raises:
        UserError: It cannot; the message says why.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UserError(f'device is {short(device)}, which torch does not know; it may be cpu or cuda:0') from None
    if found.type == 'cuda' and (found.index or 0) >= torch.cuda.device_count():
        there = f'this PyTorch sees {torch.cuda.device_count()} GPUs' if torch.cuda.is_available() else \
            'this PyTorch has no CUDA, or sees no GPU'
        raise UserError(f'device is {device!r}, but {there}; cpu always works')
    try:
        torch.empty(0, device=found)
        _wait_for(found)
    except (RuntimeError, AssertionError, NotImplementedError, AttributeError):
        raise UserError(f'device is {short(device)}, on which this PyTorch cannot run and time models here; cpu '
                        'always works') from None
    return found


def _wait_for(device: torch.device) -> None:
    """Return when a device has finished what it was given; the CPU has."""
    if device.type != 'cpu':
        getattr(torch, device.type).synchronize(*([device] if device.type == 'cuda' else []))


def _compiled(source: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], Any]:
    """Return a model compiled for an input.

    Raises:
        UserError: There is no C++ compiler, say, or this PyTorch cannot compile under this Python.
    """
    try:
        function = torch.compile(source)
        with torch.no_grad():
            function(x)
    except RuntimeError as error:
        raise UserError(f'compiled is True, but torch {torch.__version__} cannot compile and run the model on an input '
                        f'of shape {tuple(x.shape)} ({" ".join(str(error).split())[:200]}); compiled=False runs it '
                        'eagerly') from None
    return function


def _forget_compiled() -> None:
    """Free what ``torch.compile`` made in this process."""
    if hasattr(torch, 'compiler'):
        torch.compiler.reset()
    else:  # torch 2.0
        torch._dynamo.reset()
