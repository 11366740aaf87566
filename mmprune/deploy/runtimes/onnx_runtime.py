"""onnxruntime, on the CPU or on whatever else the installed build can use."""
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path as FilePath
from typing import Any, Dict, Iterator, List, Sequence

from torch import Tensor, nn

from ...arguments import UserError, nearest, short, whole_number
from ...registry import RUNTIMES
from ..onnx_export import export_onnx
from ..onnx_runtime import CPU, OnnxModel, onnxruntime_package
from .device_measure import nodes_of
from .runtime import WARM_UP, NodeTime, Path, Run, Runtime


@RUNTIMES.register_module()
class OnnxRuntime(Runtime):
    """Runs ONNX files by onnxruntime.

    Args:
        threads (int): Threads of a run.
        provider (str): An execution provider of onnxruntime.

    Raises:
        UserError: The installed onnxruntime has no such provider; the message lists those that it has.
        MissingPackageError: onnxruntime is not installed.
    """

    name = 'onnxruntime'

    def __init__(self, threads: int = 1, provider: str = CPU) -> None:
        super().__init__(threads)
        known = onnxruntime_package().get_available_providers()
        if provider not in known:
            raise UserError(f'provider is {short(provider)}{nearest(provider, known)}; this onnxruntime has '
                            f'{", ".join(known)}')
        self.provider = provider

    def version(self) -> str:
        """Return the version of onnxruntime."""
        return str(onnxruntime_package().__version__)

    def device_name(self) -> str:
        """Return the execution provider."""
        return self.provider

    def prepare(self, model: nn.Module, x: Tensor, path: Path) -> FilePath:
        """Write an ONNX file; return its path."""
        export_onnx(model, x, path, folds_norms=False)  # nodes of all widths are compared
        return FilePath(path)

    @contextmanager
    def opened(self, source: Path, x: Tensor) -> Iterator[Run]:
        """Open an ONNX file in a session of its own, which ends with the block."""
        model = OnnxModel(source, self.threads, self.provider)
        try:
            yield lambda: model(x)
        finally:
            model.close()

    def profiled(self, source: Path, x: Tensor, runs: int = 12) -> List[NodeTime]:
        """Return the kernel time of every node, from onnxruntime's own profile; the clock counts in microseconds."""
        whole_number('runs', runs)
        with tempfile.TemporaryDirectory() as folder:
            model = OnnxModel(source, self.threads, self.provider, str(FilePath(folder) / 'profile'))
            try:
                for _ in range(WARM_UP + runs):
                    model(x)
                events = json.loads(FilePath(model.end_profile()).read_text(encoding='utf-8'))
            finally:
                model.close()
        return node_times(events, runs)


def node_times(events: Sequence[Dict[str, Any]], runs: int) -> List[NodeTime]:
    """Return what each node took in the last runs of a profile of onnxruntime.

    Args:
        events (list[dict]): The events of the profile; those of kernels are of the category ``Node``, in microseconds.
        runs (int): Runs that count.
    """
    return [NodeTime(**{**node, 'inputs': tuple(node['inputs']), 'outputs': tuple(node['outputs'])})
            for node in nodes_of(events, runs)]
