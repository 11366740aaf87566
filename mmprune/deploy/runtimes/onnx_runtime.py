"""onnxruntime, on the CPU or by another of its execution providers."""
import json
import statistics
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from torch import Tensor, nn

from ...arguments import MissingPackageError, UserError, nearest
from ...registry import RUNTIMES
from ..onnx_export import export_onnx
from .runtime import WARM_UP, NodeTime, Run, Runtime, Source

#: What the profiler writes behind the name of a node.
KERNEL = '_kernel_time'


def import_onnxruntime() -> Any:
    """Return the package, which is optional.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError('onnxruntime is not installed: pip install onnx onnxruntime') from error
    return onnxruntime


@RUNTIMES.register_module()
class OnnxRuntime(Runtime):
    """onnxruntime.

    Args:
        threads (int): Threads of a run.
        provider (str): Execution provider, such as ``CUDAExecutionProvider``; it must be part of the package that is
            installed. Nodes that it does not know run on the CPU.

    Raises:
        MissingPackageError: onnxruntime is not installed.
        UserError: The package has no such provider.
    """

    name = 'onnxruntime'

    def __init__(self, threads: int = 1, provider: str = 'CPUExecutionProvider') -> None:
        super().__init__(threads)
        self._package = import_onnxruntime()
        known = self._package.get_available_providers()
        if provider not in known:
            raise UserError(f'this onnxruntime has no {provider!r}{nearest(str(provider), known)}; it has '
                            f'{", ".join(known)}. Others come with packages of their own, such as onnxruntime-gpu')
        self.provider = provider

    @property
    def version(self) -> str:
        """Version of onnxruntime."""
        return str(self._package.__version__)

    def describe(self) -> Dict[str, Any]:
        """Return runtime, version, threads, CPU and provider."""
        return dict(super().describe(), provider=self.provider)

    def options(self) -> Any:
        """Return the options of a session."""
        options = self._package.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        return options

    def session(self, path: Path, options: Any) -> Any:
        """Return a session of a file."""
        providers = list(dict.fromkeys([self.provider, 'CPUExecutionProvider']))
        return self._package.InferenceSession(str(path), options, providers=providers)

    def prepare(self, model: nn.Module, x: Tensor, path: Path) -> Source:
        """Export the model."""
        export_onnx(model, x, path)
        return path

    @contextmanager
    def opened(self, source: Source, x: Tensor) -> Iterator[Run]:
        """Open a session."""
        held = [self.session(Path(str(source)), self.options())]
        feed = {held[0].get_inputs()[0].name: x.cpu().numpy()}
        try:
            yield lambda: held[0].run(None, feed)
        finally:
            held.clear()  # whoever keeps the run does not keep the session

    def profiled(self, source: Source, x: Tensor, runs: int) -> List[NodeTime]:
        """Return the nodes of the optimised network in the order of execution."""
        options = self.options()
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / 'profile')
            session = self.session(Path(str(source)), options)
            feed = {session.get_inputs()[0].name: x.cpu().numpy()}
            for _ in range(WARM_UP + runs):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding='utf-8'))
            del session
        return node_times(events)


def node_times(events: List[Dict[str, Any]]) -> List[NodeTime]:
    """Return the nodes of a profile that onnxruntime wrote, without the runs of the warm-up."""
    found: Dict[str, List[Dict[str, Any]]] = {}
    for event in events:
        name = str(event.get('name', ''))
        if event.get('cat') == 'Node' and name.endswith(KERNEL):
            found.setdefault(name[:-len(KERNEL)], []).append(event)
    return [NodeTime(name, first['args']['op_name'], statistics.median(one['dur'] for one in all_[WARM_UP:]) / 1e3,
                     _shapes(first['args'].get('input_type_shape')), _shapes(first['args'].get('output_type_shape')))
            for name, all_ in found.items() for first in all_[:1]]


def _shapes(entries: Any) -> Tuple[Tuple[int, ...], ...]:
    return tuple(tuple(shape) for entry in entries or [] for shape in entry.values())
