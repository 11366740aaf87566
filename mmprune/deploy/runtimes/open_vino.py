"""OpenVINO on the CPU, in float32."""
import statistics
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any, Dict, Iterator, List, Tuple

import torch
from torch import Tensor, nn

from ...arguments import UserError, optional_package, whole_number
from ...registry import RUNTIMES
from ..onnx_export import export_onnx
from .runtime import WARM_UP, NodeTime, Path, Run, Runtime

DEVICE = 'CPU'


def openvino_package() -> Any:
    """Return the package openvino.

    Raises:
        MissingPackageError: It is not installed.
    """
    return optional_package('openvino')


@RUNTIMES.register_module()
class OpenVINO(Runtime):
    """Runs ONNX files by OpenVINO, one request at a time, in float32 also where the CPU has bfloat16.

    Args:
        threads (int): Threads of a run.

    Raises:
        MissingPackageError: openvino is not installed.
    """

    name = 'OpenVINO'

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        openvino_package()

    def version(self) -> str:
        """Return the version of OpenVINO, without its build."""
        return str(openvino_package().__version__).partition('-')[0]

    def device_name(self) -> str:
        """Return OpenVINO's name of the device."""
        return DEVICE

    def prepare(self, model: nn.Module, x: Tensor, path: Path) -> FilePath:
        """Write an ONNX file, which OpenVINO reads; return its path."""
        export_onnx(model, x, path, folds_norms=False)  # nodes of all widths are compared
        return FilePath(path)

    @contextmanager
    def opened(self, source: Path, x: Tensor) -> Iterator[Run]:
        """Compile a file of ONNX or OpenVINO for the shape of the input; it is freed with the block."""
        held, array = [self._compiled(source, x, profile=False).create_infer_request()], x.cpu().numpy()

        def run() -> List[Tensor]:
            return [torch.from_numpy(value.copy()) for value in held[0].infer([array]).values()]

        try:
            yield run
        finally:
            held.clear()

    def profiled(self, source: Path, x: Tensor, runs: int = 12) -> List[NodeTime]:
        """Return what every node took that ran on its own, from OpenVINO's counters, in microseconds."""
        compiled, array = self._compiled(source, x, profile=True), x.cpu().numpy()
        request = compiled.create_infer_request()
        found: Dict[Tuple[str, str, str], List[float]] = {}
        for turn in range(WARM_UP + whole_number('runs', runs)):
            request.infer([array])
            for node in request.profiling_info if turn >= WARM_UP else ():
                if node.status.name == 'EXECUTED':
                    key = (node.node_name, node.node_type, node.exec_type)
                    found.setdefault(key, []).append(1e3 * node.real_time.total_seconds())
        nodes = {node.get_friendly_name(): node for node in compiled.get_runtime_model().get_ordered_ops()}
        return [NodeTime(name, op, statistics.median(times), _shapes(nodes[name].inputs()),
                         _shapes(nodes[name].outputs()), kernel) for (name, op, kernel), times in found.items()]

    def _compiled(self, source: Path, x: Tensor, profile: bool) -> Any:
        """Return a compiled file."""
        openvino = openvino_package()
        path = FilePath(source)
        if not path.is_file():
            raise UserError(f'there is no file {str(path)!r} for OpenVINO')
        settings = dict(INFERENCE_NUM_THREADS=self.threads, NUM_STREAMS=1, PERFORMANCE_HINT='LATENCY',
                        INFERENCE_PRECISION_HINT='f32', PERF_COUNT=profile)
        try:
            core = openvino.Core()
            model = core.read_model(path)
            model.reshape({model.inputs[0]: list(x.shape)})
            return core.compile_model(model, DEVICE, settings)
        except RuntimeError as error:
            raise UserError(f'{str(path)!r} cannot be run by OpenVINO on an input of shape {tuple(x.shape)} '
                            f'({" ".join(str(error).split())[:200]})') from None


def _shapes(ports: Any) -> Tuple[Tuple[int, ...], ...]:
    """Return the shapes of the inputs or outputs of a node."""
    return tuple(tuple(int(size) for size in port.get_shape()) for port in ports)
