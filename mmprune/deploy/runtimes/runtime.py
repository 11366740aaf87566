"""What a runtime does: make ready what it runs, open a session, time it, and say what each node takes."""
import platform
import re
import statistics
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple, Union

from torch import Tensor, nn

from ...arguments import UserError, whole_number

Run = Callable[[], Any]
Shape = Tuple[int, ...]
#: What a runtime opens: a file, or the module itself.
Source = Union[Path, nn.Module]
#: Runs before times are taken.
WARM_UP = 2


class NodeTime(NamedTuple):
    """A node of a network in the profile of a runtime.

    Attributes:
        name (str): The same in networks that differ in their widths only.
        op (str): Its operator.
        milliseconds (float): Median over the runs.
        inputs, outputs (tuple[tuple[int]]): Shapes, as the runtime lays them out.
    """

    name: str
    op: str
    milliseconds: float
    inputs: Tuple[Shape, ...]
    outputs: Tuple[Shape, ...]


class Runtime:
    """A way to run a model on a device.

    Args:
        threads (int): Threads of a run.
    """

    #: What it is called in tables and messages.
    name = ''

    def __init__(self, threads: int = 1) -> None:
        self.threads = whole_number('threads', threads, most=1024)

    @property
    def version(self) -> str:
        """Version of the package."""
        raise NotImplementedError

    def describe(self) -> Dict[str, Any]:
        """Return where its times come from: runtime, version, threads, CPU."""
        return dict(runtime=self.name, version=self.version, threads=self.threads, cpu=cpu_name())

    def prepare(self, model: nn.Module, x: Tensor, path: Path) -> Source:
        """Return what :meth:`opened` takes, of a model in eval mode; a file is written to ``path``.

        Args:
            model (nn.Module): OpenMMLab's or any other.
            x (Tensor[N, C, H, W]): The input, whose shape is fixed.
            path (Path): An ``.onnx`` file.
        """
        raise NotImplementedError

    def opened(self, source: Source, x: Tensor) -> 'AbstractContextManager[Run]':
        """Return a context that yields a run without arguments, whose session lives as long as the context."""
        raise NotImplementedError

    def profiled(self, source: Source, x: Tensor, runs: int) -> List[NodeTime]:
        """Run some times and return what each node took.

        Raises:
            UserError: The runtime cannot tell.
        """
        raise UserError(f'{self.name} does not tell what its nodes take, so there is no latency table of it')

    def median_ms(self, source: Source, x: Tensor, seconds: float, least_runs: int) -> float:
        """Return the median time of a run in a session of its own.

        Args:
            source (Path or nn.Module): From :meth:`prepare`.
            x (Tensor[N, C, H, W]): The input.
            seconds (float): Runs are timed until these have passed.
            least_runs (int): Runs that are timed at least.
        """
        with self.opened(source, x) as run:
            return statistics.median(times_of(run, seconds, least_runs))


def times_of(run: Run, seconds: float, least_runs: int, clock: Callable[[], float] = time.perf_counter) -> List[float]:
    """Return milliseconds of runs after the warm-up; the arguments are those of :meth:`Runtime.median_ms`."""
    for _ in range(WARM_UP):
        run()
    times: List[float] = []
    while len(times) < least_runs or sum(times) < 1e3 * seconds:
        began = clock()
        run()
        times.append(1e3 * (clock() - began))
    return times


def cpu_name() -> str:
    """Return what the CPU calls itself."""
    cpuinfo = Path('/proc/cpuinfo')
    text = cpuinfo.read_text(encoding='utf-8') if cpuinfo.exists() else ''
    names = re.findall(r'model name\s*: (.*)', text)
    return names[0] if names else platform.processor() or platform.machine()
