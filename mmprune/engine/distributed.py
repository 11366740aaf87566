"""Model wrappers for distributed training, with or without CUDA, around models whose shapes are fixed or shrink."""
import gc
import inspect
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import torch
from mmengine import dist
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parallel import distributed as torch_ddp

from ..arguments import UserError
from ..registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class PortableDDP(MMDistributedDataParallel):
    """mmengine's DDP, on CUDA devices and on CPUs, where norms that synchronise over ranks (CUDA only) become plain.

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
        options: Dict[str, Any] = dict(
            device_ids=device_ids if torch.cuda.is_available() else None, broadcast_buffers=broadcast_buffers,
            find_unused_parameters=find_unused_parameters)
        super().__init__(module=module, detect_anomalous_params=detect_anomalous_params, **options)
        self._options, self._shapes = options, _parameter_shapes(module)


def _parameter_shapes(module: nn.Module) -> List[torch.Size]:
    return [parameter.shape for parameter in module.parameters()]


@MODEL_WRAPPERS.register_module()
class ShrinkingDDP(PortableDDP):
    """DDP around a :class:`~mmprune.models.pruning_algorithm.PruningAlgorithm`: shapes may shrink between two steps.

    The reducer keeps gradient accumulators of the shapes it was built for. It is dropped before a cut and built anew
    after it; and before the first step if a checkpoint was loaded since, which cuts too.
    The arguments are those of :class:`PortableDDP`.
    """

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> Dict[str, torch.Tensor]:
        """Train one iteration through ``DDP.forward``."""
        self.follow_loaded_shapes()
        return super().train_step(data, optim_wrapper)  # type: ignore[no-any-return]

    def follow_loaded_shapes(self) -> None:
        """Wrap the module again if loading a checkpoint has cut it."""
        if _parameter_shapes(self.module) != self._shapes:
            with self.released():
                pass

    @contextmanager
    def released(self) -> Iterator[None]:
        """Keep no reference to a parameter inside the context; wrap the module again when it ends."""
        self.reducer = None
        self.logger = None
        yield
        kept = {name: getattr(self, name) for name in ('training', 'detect_anomalous_params', '_options')}
        with _without_broadcast() as more:  # the ranks have just made the same cut
            DistributedDataParallel.__init__(self, self.module, **self._options, **more)
        self.__dict__.update(kept, _shapes=_parameter_shapes(self.module))


@MODEL_WRAPPERS.register_module()
class GroupFisherDDP(ShrinkingDDP):
    """Wraps a :class:`~mmprune.group_fisher.algorithm.GroupFisherAlgorithm`, which prunes in its training steps."""

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> Dict[str, torch.Tensor]:
        """Train one iteration through ``DDP.forward`` and prune when it is due."""
        self.follow_loaded_shapes()
        return self.module.train_and_prune(super().train_step, data, optim_wrapper, self.released)


def broadcast_tensors(model: nn.Module) -> None:
    """Give the parameters and buffers of a model the values that they have on rank 0; every rank calls this."""
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor.detach())


@contextmanager
def _without_broadcast() -> Iterator[Dict[str, bool]]:
    """Let DDP's constructor skip the broadcast of the model; yields the arguments that do so."""
    if 'init_sync' in inspect.signature(DistributedDataParallel.__init__).parameters:
        yield dict(init_sync=False)
        return
    broadcast = torch_ddp._sync_module_states  # torch 2.0: the function itself is replaced for the time of the call
    torch_ddp._sync_module_states = lambda *args, **kwargs: None
    try:
        yield {}
    finally:
        torch_ddp._sync_module_states = broadcast


@contextmanager
def process_group(launcher: str) -> Iterator[None]:
    """Run the block in the launcher's process group, over gloo where no CUDA device is present, and leave the group.

    What the block builds around the group (DDP) must be garbage when the block ends. A process that exits with a group
    that was not left can abort: its threads are still running when the interpreter goes.

    Args:
        launcher (str): ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Raises:
        UserError: A launcher that cannot run without CUDA.
    """
    if launcher != 'none':
        _start_without_cuda(launcher)
    yield
    if launcher != 'none' and torch.distributed.is_initialized():
        gc.collect()  # runner, hooks and model refer to each other; DDP's reducer has to go before its group
        torch.distributed.destroy_process_group()


def _start_without_cuda(launcher: str) -> None:
    """Start the process group over gloo where no CUDA device is present, for which mmengine would ask."""
    if torch.cuda.is_available() or torch.distributed.is_initialized():
        return
    if launcher != 'pytorch':
        raise UserError(f'launcher {launcher!r} needs CUDA devices; without them use --launcher pytorch')
    torch.distributed.init_process_group('gloo')
