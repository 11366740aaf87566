"""OpenVINO on the CPU, in float32."""
import statistics
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

from torch import Tensor, nn

from ...arguments import MissingPackageError
from ...registry import RUNTIMES
from ..onnx_export import export_onnx
from .runtime import WARM_UP, NodeTime, Run, Runtime, Source

NOT_RUN = 'not_executed'


@RUNTIMES.register_module()
class OpenVINO(Runtime):
    """OpenVINO, one stream, without its default of computing in bfloat16 where the CPU can.

    Args:
        threads (int): Threads of a run.

    Raises:
        MissingPackageError: OpenVINO is not installed.
    """

    name = 'OpenVINO'

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        try:
            import openvino
        except ImportError as error:
            raise MissingPackageError('OpenVINO is not installed: pip install openvino') from error
        self._package = openvino

    @property
    def version(self) -> str:
        """Version of OpenVINO."""
        return str(self._package.__version__)

    def prepare(self, model: nn.Module, x: Tensor, path: Path) -> Source:
        """Export the model as ONNX, which OpenVINO reads."""
        export_onnx(model, x, path)
        return path

    def _compiled(self, source: Source, counted: bool) -> Any:
        settings = {'INFERENCE_NUM_THREADS': self.threads, 'NUM_STREAMS': '1', 'INFERENCE_PRECISION_HINT': 'f32',
                    'PERF_COUNT': counted}
        return self._package.Core().compile_model(str(source), 'CPU', settings)

    @contextmanager
    def opened(self, source: Source, x: Tensor) -> Iterator[Run]:
        """Compile the network."""
        held = [self._compiled(source, counted=False).create_infer_request()]
        feed = [x.cpu().numpy()]
        try:
            yield lambda: held[0].infer(feed)
        finally:
            held.clear()

    def profiled(self, source: Source, x: Tensor, runs: int) -> List[NodeTime]:
        """Return the nodes of the compiled network that run, in the order of execution."""
        compiled = self._compiled(source, counted=True)
        request, feed = compiled.create_infer_request(), [x.cpu().numpy()]
        times: Dict[str, List[float]] = {}
        for number in range(WARM_UP + runs):
            request.infer(feed)
            for node in request.get_profiling_info() if number >= WARM_UP else ():
                times.setdefault(node.node_name, []).append(1e3 * node.real_time.total_seconds())
        found = []
        for node in compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if _text(info['execTimeMcs']) == NOT_RUN:
                continue
            name = node.get_friendly_name()
            found.append(NodeTime(name, _text(info['layerType']), statistics.median(times.get(name, [0.0])),
                                  tuple(tuple(map(int, one.get_shape())) for one in node.inputs()),
                                  tuple(tuple(map(int, one.get_shape())) for one in node.outputs())))
        return found


def _text(value: Any) -> str:
    return str(getattr(value, 'value', value))
