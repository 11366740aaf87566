"""PyTorch itself, eager or compiled, on a CPU or a GPU."""
import statistics
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import torch
from torch import Tensor, nn

from ...arguments import UserError, typed
from ...graph.nested import output_tensors
from ...graph.watching import watched
from ...registry import RUNTIMES
from ..onnx_export import DeployOutput
from .runtime import WARM_UP, NodeTime, Run, Runtime, Source


@RUNTIMES.register_module()
class Torch(Runtime):
    """PyTorch.

    Args:
        threads (int): Threads of a run on the CPU.
        compiled (bool): Run what ``torch.compile`` makes of the model; compiling takes up to minutes a model.
        device (str): ``cpu``, or ``cuda`` and which.

    Raises:
        UserError: There is no such device.
    """

    name = 'PyTorch'

    @typed
    def __init__(self, threads: int = 1, compiled: bool = False, device: str = 'cpu') -> None:
        super().__init__(threads)
        if device.partition(':')[0] not in ('cpu', 'cuda'):
            raise UserError(f'device is {device!r}; it is cpu, cuda or cuda:1')
        if device != 'cpu' and not torch.cuda.is_available():
            raise UserError(f'device is {device!r}, and this torch finds no GPU; device="cpu" runs everywhere')
        self.compiled, self.device = compiled, torch.device(device)

    @property
    def version(self) -> str:
        """Version of torch."""
        return str(torch.__version__)

    def describe(self) -> Dict[str, Any]:
        """Return runtime, version, threads, CPU, device, and whether the model is compiled."""
        device = str(self.device) if self.device.type == 'cpu' else torch.cuda.get_device_name(self.device)
        return dict(super().describe(), device=device, compiled=self.compiled)

    def prepare(self, model: nn.Module, x: Tensor, path: Path) -> Source:
        """Return the model, whose raw outputs are computed."""
        return DeployOutput(model).eval()

    @contextmanager
    def opened(self, source: Source, x: Tensor) -> Iterator[Run]:
        """Move the model to the device; threads and the model are as before afterwards."""
        if not isinstance(source, nn.Module):
            raise UserError(f'PyTorch runs modules, not {source}')
        before, home = torch.get_num_threads(), next(iter([one.device for one in source.parameters()]), self.device)
        torch.set_num_threads(self.threads)
        source.to(self.device)
        forward: Any = torch.compile(source) if self.compiled else source
        inputs = x.to(self.device)

        def run() -> Any:
            with torch.no_grad():
                out = forward(inputs)
            if self.device.type == 'cuda':
                torch.cuda.synchronize(self.device)
            return out

        try:
            yield run
        finally:
            torch.set_num_threads(before)
            source.to(home)

    def profiled(self, source: Source, x: Tensor, runs: int) -> List[NodeTime]:
        """Return what each module without children took, in the order of the forward pass; eager models only."""
        if self.compiled or not isinstance(source, nn.Module):
            raise UserError('a compiled model is one piece: there is no latency table of it. compiled=False gives one '
                            'of the same layers')
        found: Dict[str, List[Tuple[float, nn.Module, Any, Any]]] = {}
        started: Dict[str, float] = {}
        calls: Dict[str, int] = {}

        def now() -> float:
            if self.device.type == 'cuda':
                torch.cuda.synchronize(self.device)
            return time.perf_counter()

        def before(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
            started[name] = now()

        def after(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            spent = now() - started[name]
            calls[name] = calls.get(name, 0) + 1
            found.setdefault(f'{name} ({calls[name]})', []).append((1e3 * spent, module, args, out))

        leaves = [item for item in source.named_modules() if not [*item[1].children()]]
        with self.opened(source, x) as run, watched(leaves, before=before, after=after):
            for _ in range(WARM_UP + runs):
                calls.clear()
                run()
        return [NodeTime(name, type(module).__name__, statistics.median(one[0] for one in all_[WARM_UP:]),
                         (*_shapes(args), *(tuple(p.shape) for p in module.parameters(recurse=False))), _shapes(out))
                for name, all_ in found.items() for _, module, args, out in all_[:1]]


def _shapes(value: Any) -> Tuple[Tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in output_tensors(value))
