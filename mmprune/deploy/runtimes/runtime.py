"""What a runtime can do: open a model that was prepared for it, run it, say how long each of its nodes takes."""
import os
import statistics
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Callable, ClassVar, Dict, List, Tuple, Union

from torch import Tensor, nn

from ...arguments import MOST_THREADS, UserError, whole_number
from ..machine import cpu_name

WARM_UP = 2  # runs of a session that do not count: the first allocates, the second plans its memory
Path = Union[str, 'os.PathLike[str]']
Run = Callable[[], List[Tensor]]
Description = Dict[str, Union[str, int]]


@dataclass(frozen=True)
class NodeTime:
    """How long a node of a network takes in a runtime, which may have fused several layers into it."""

    name: str  # as the runtime calls it
    op: str  # what it computes, in the words of the runtime
    milliseconds: float  # median over the runs
    inputs: Tuple[Tuple[int, ...], ...] = ()  # shapes of its inputs, weights included, where the runtime tells them
    outputs: Tuple[Tuple[int, ...], ...] = ()
    kernel: str = ''  # what runs it: an implementation, or a provider


class Runtime:
    """Runs models with a number of threads.

    Args:
        threads (int): Threads of a run.

    Raises:
        UserError: ``threads`` is no whole number from 1 to 1,024.
        MissingPackageError: The package of the runtime is not installed.
    """

    #: What messages and tables call it.
    name: ClassVar[str]
    #: Whether it can be measured on this machine.
    is_here: ClassVar[bool] = True

    def __init__(self, threads: int = 1) -> None:
        self.threads = whole_number('threads', threads, most=MOST_THREADS)

    def describe(self) -> Description:
        """Return what identifies where a number comes from: runtime, version, threads, device and CPU."""
        return dict(runtime=self.name, version=self.version(), threads=self.threads, device=self.device_name(),
                    cpu=cpu_name())

    def version(self) -> str:
        """Return the version of the runtime's package."""
        raise NotImplementedError

    def device_name(self) -> str:
        """Return what runs the model, in the words of the runtime."""
        raise NotImplementedError

    def prepare(self, model: nn.Module, x: Tensor, path: Path) -> Any:
        """Return what the runtime opens for a PyTorch model: a file that is written to ``path``, or the model itself.

        Args:
            model (nn.Module): In eval mode and switched to deployment.
            x (Tensor[N, C, H, W]): An input of the shape that it will run on.
            path (str): Where a file may go, with the suffix .onnx.
        """
        raise NotImplementedError

    def opened(self, source: Any, x: Tensor) -> 'AbstractContextManager[Run]':
        """Open a model; the context gives a run on the input, without arguments, and frees the model at its end.

        Args:
            source (Any): What :meth:`prepare` returned.
            x (Tensor[N, C, H, W]): The input of every run.

        Returns:
            ContextManager[Callable]: Its run returns the output tensors.

        Raises:
            UserError: The runtime cannot open it, or cannot run it on this input.
        """
        raise NotImplementedError

    def profiled(self, source: Any, x: Tensor, runs: int = 12) -> List[NodeTime]:
        """Return what each node takes, in the order in which they run; nodes that take no time may be missing.

        Args:
            source (Any): What :meth:`prepare` returned.
            x (Tensor[N, C, H, W]): The input.
            runs (int): Runs that count.

        Raises:
            UserError: The runtime does not tell, or cannot run the model.
        """
        raise UserError(f'{self.name} does not tell how long each layer takes; OnnxRuntime, OpenVINO and Torch do')

    def median_ms(self, source: Any, x: Tensor, seconds: float, least_runs: int,
                  clock: Callable[[], float] = time.perf_counter) -> float:
        """Return the median milliseconds of a run in a session of its own.

        Args:
            source (Any): What :meth:`prepare` returned.
            x (Tensor[N, C, H, W]): The input.
            seconds (float): Runs are timed until these have passed.
            least_runs (int): Runs that are timed at least.
            clock (Callable): Returns seconds.
        """
        times: List[float] = []
        with self.opened(source, x) as run:
            for _ in range(WARM_UP):
                run()
            while len(times) < least_runs or sum(times) < seconds:
                began = clock()
                run()
                times.append(clock() - began)
        return 1e3 * statistics.median(times)


def in_words(about: Description) -> str:
    """Return a description in a few words, like ``onnxruntime 1.32.0, 2 threads, CPUExecutionProvider``."""
    threads = f'{about["threads"]} thread{"s" * (about["threads"] != 1)}'
    return f'{about["runtime"]} {about["version"]}, {threads}, {about["device"]}'
