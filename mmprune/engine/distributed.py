"""Model wrappers for distributed training: one that also runs without CUDA, one that can follow a shrinking model."""
import inspect
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parallel import distributed as torch_ddp

from ..registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class PortableDDP(MMDistributedDataParallel):
    """mmengine's DDP, on CUDA devices and on CPUs.

    Without CUDA, norms that synchronise over ranks become plain ones, as mmengine makes them in one process: they run
    on CUDA devices only.

    Args:
        module (nn.Module): The model.
        device_ids (list[int], optional): Ignored without CUDA, where the Runner passes them too.
        broadcast_buffers (bool): Broadcast buffers of rank 0 before each forward.
        find_unused_parameters (bool): Allow branches that an iteration does not reach.
        detect_anomalous_params (bool): Log parameters outside the graph; for debugging.
    """

    def __init__(self, module: nn.Module, device_ids: Optional[List[int]] = None, broadcast_buffers: bool = False,
                 find_unused_parameters: bool = False, detect_anomalous_params: bool = False) -> None:
        if not torch.cuda.is_available():
            module = revert_sync_batchnorm(module)
        super().__init__(
            module=module, detect_anomalous_params=detect_anomalous_params,
            device_ids=device_ids if torch.cuda.is_available() else None, broadcast_buffers=broadcast_buffers,
            find_unused_parameters=find_unused_parameters)


@MODEL_WRAPPERS.register_module()
class ShrinkingDDP(PortableDDP):
    """DDP around a :class:`~mmprune.models.pruning_algorithm.PruningAlgorithm`: shapes may shrink between two steps.

    The reducer keeps gradient accumulators of the shapes it was built for. It is dropped before a cut and built anew
    after it; and before the first step if a checkpoint was loaded since, which cuts too.

    Args:
        module (PruningAlgorithm): The algorithm.
        device_ids (list[int], optional): Ignored without CUDA.
        broadcast_buffers (bool): Broadcast buffers of rank 0 before each forward.
        find_unused_parameters (bool): Allow branches that an iteration does not reach.
        detect_anomalous_params (bool): Log parameters outside the graph; for debugging.
    """

    def __init__(self, module: nn.Module, device_ids: Optional[List[int]] = None, broadcast_buffers: bool = False,
                 find_unused_parameters: bool = False, detect_anomalous_params: bool = False) -> None:
        super().__init__(module, device_ids, broadcast_buffers, find_unused_parameters, detect_anomalous_params)
        self.detect_anomalous_params: bool = detect_anomalous_params
        self.training: bool
        self._options: Dict[str, Any] = dict(
            device_ids=device_ids if torch.cuda.is_available() else None, broadcast_buffers=broadcast_buffers,
            find_unused_parameters=find_unused_parameters)
        self._shapes = self._parameter_shapes()

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> Dict[str, torch.Tensor]:
        """Train one iteration through ``DDP.forward``."""
        self.follow_loaded_shapes()
        return super().train_step(data, optim_wrapper)  # type: ignore[no-any-return]

    def follow_loaded_shapes(self) -> None:
        """Wrap the module again if a checkpoint was loaded that has cut it."""
        if self._parameter_shapes() != self._shapes:
            with self.released():
                pass

    @contextmanager
    def released(self) -> Iterator[None]:
        """Hold no parameter inside the context; wrap the module again when it ends."""
        self.reducer = None
        self.logger = None
        yield
        module, options, training = self.module, self._options, self.training
        detect_anomalous_params = self.detect_anomalous_params
        with _without_broadcast() as more:  # the ranks have just made the same cut
            DistributedDataParallel.__init__(self, module, **options, **more)
        self.detect_anomalous_params, self._options = detect_anomalous_params, options
        self._shapes, self.training = self._parameter_shapes(), training

    def _parameter_shapes(self) -> List[torch.Size]:
        return [parameter.shape for parameter in self.module.parameters()]


@MODEL_WRAPPERS.register_module()
class GroupFisherDDP(ShrinkingDDP):
    """DDP around a :class:`~mmprune.group_fisher.algorithm.GroupFisherAlgorithm`, which prunes in its training steps.

    Arguments are those of :class:`ShrinkingDDP`.
    """

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> Dict[str, torch.Tensor]:
        """Train one iteration through ``DDP.forward`` and prune when it is due."""
        self.follow_loaded_shapes()
        return self.module.train_and_prune(super().train_step, data, optim_wrapper, self.released)


@contextmanager
def _without_broadcast() -> Iterator[Dict[str, bool]]:
    """Let DDP's constructor skip the broadcast of the model; yields the arguments that do so.

    torch 2.0 has no ``init_sync``; there the function that broadcasts is replaced for the time of the call.
    """
    if 'init_sync' in inspect.signature(DistributedDataParallel.__init__).parameters:
        yield dict(init_sync=False)
        return
    broadcast = torch_ddp._sync_module_states
    torch_ddp._sync_module_states = _no_broadcast
    try:
        yield {}
    finally:
        torch_ddp._sync_module_states = broadcast


def _no_broadcast(*args: Any, **kwargs: Any) -> None:
    """Stand in for ``_sync_module_states``."""


def start_without_cuda(launcher: str) -> None:
    """Start the process group over gloo where there is no CUDA device: mmengine would ask for one.

    Args:
        launcher (str): ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        RuntimeError: A launcher that cannot run without CUDA.
    """
    if launcher == 'none' or torch.cuda.is_available() or torch.distributed.is_initialized():
        return
    if launcher != 'pytorch':
        raise RuntimeError(f'launcher {launcher!r} needs CUDA devices; without them use --launcher pytorch')
    torch.distributed.init_process_group('gloo')
