"""Group Fisher pruning: train, record, accumulate, and every ``interval`` iterations remove the least channel."""
from collections import Counter
from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from ..arguments import LARGEST_BLOCK, UserError, whole_number
from ..latency.block import AUTO, blocks_of_align
from ..models.pruning_algorithm import PruningAlgorithm
from ..registry import MODELS
from ..units.selection import NotFiniteError, PrunedSet
from .mutator import GroupFisherChannelMutator

ITERATIONS = 'iterations'


@MODELS.register_module()
class GroupFisherAlgorithm(PruningAlgorithm):
    """Prune a model by group Fisher information while it trains (Liu et al., ICML 2021).

    Args:
        architecture, data_preprocessor, init_cfg: See :class:`~mmprune.models.pruning_algorithm.PruningAlgorithm`.
        mutator (dict): Defaults to ``dict(type='GroupFisherChannelMutator')``.
        interval (int): Iterations between two prune events; the first comes after ``interval`` iterations.
        channels_per_event (int): Channels that one event removes at least (in the paper 1); scores are not worked out
            again in between.
        align (int or str): Remove blocks, so that the widths of units become and stay a multiple of this; a block goes
            by its mean score. Together with a larger ``interval``: a block of 8 every 8 intervals prunes as fast as
            before. ``auto``: the block of the runtime in which the run measures time, which is taken, too, where scores
            are divided by time.

    Attributes:
        iterations (int): Training iterations so far.
        last_pruned (PrunedSet or None): What the latest prune event removed; the last of them.
        goal (Callable or None): Tells whether a structure with some masks is what the run wants: the event that
            reaches it removes no more than that takes.
        before_cut (Callable or None): Called right before an event removes channels.
        block (int): What ``align`` is worth.
    """

    default_mutator = 'GroupFisherChannelMutator'
    mutator: GroupFisherChannelMutator

    def __init__(self, architecture: Union[dict, nn.Module], mutator: Optional[dict] = None, interval: int = 1,
                 data_preprocessor: Optional[Union[dict, nn.Module]] = None, init_cfg: Optional[dict] = None,
                 channels_per_event: int = 1, align: Union[int, str] = 1) -> None:
        for name, value, meaning in (
                ('interval', interval, 'the number of iterations between two prune events'),
                ('channels_per_event', channels_per_event, 'the number of channels that a prune event removes')):
            whole_number(name, value, must=f'it is {meaning}, so it must be a whole number of 1 or more')
        if align != AUTO:
            whole_number('align', align, most=LARGEST_BLOCK, must=(
                f'it is what the widths become a multiple of, so it must be whole and from 1 to {LARGEST_BLOCK}, or '
                f'{AUTO!r}'))
        super().__init__(architecture, mutator, data_preprocessor, init_cfg)
        self.interval, self.channels_per_event, self.align = interval, channels_per_event, align
        self.iterations = 0
        self.last_pruned: Optional[PrunedSet] = None
        self.goal: Optional[Callable[[Mapping[str, np.ndarray]], bool]] = None
        self.before_cut: Optional[Callable[[], None]] = None
        self.block = 1 if isinstance(align, str) else align
        # each rank accumulates its own: DDP must not broadcast it
        self._ddp_params_and_buffers_to_ignore = ['mutator.fisher']

    def blocks_for(self, measured: int) -> List[int]:
        """Return the blocks in which channels may go where the runtime's is ``measured``, the wanted one first."""
        return blocks_of_align(self.align, measured, self.mutator.divides_by_time)

    def check_unmeasured(self) -> None:
        """Raise UserError if something is to be measured; called where nothing says in which runtime."""
        if self.align == AUTO or self.mutator.divides_by_time:
            what = "normalization_type='latency'" if self.mutator.divides_by_time else f'align={AUTO!r}'
            raise UserError(f"{what} needs a runtime to be measured in: give mmprune.ResourceInfoHook "
                            "runtime=dict(type='OnnxRuntime', threads=1)")

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> Dict[str, torch.Tensor]:
        """Train one iteration and prune when it is due; see :meth:`train_and_prune`."""
        return self.train_and_prune(super().train_step, data, optim_wrapper)

    def train_and_prune(self, step: Callable[[Any, Any], Dict[str, torch.Tensor]], data: Any,
                        optim_wrapper: Union[OptimWrapper, OptimWrapperDict],
                        released: Optional[Callable[[], ContextManager[None]]] = None) -> Dict[str, torch.Tensor]:
        """Train one iteration with the taps on, accumulate, and prune every ``interval`` iterations.

        Args:
            step (Callable): Plain training step, ``step(data, optim_wrapper) -> log_vars``.
            data (Any): A batch of the data loader.
            optim_wrapper (OptimWrapper): mmengine's optimizer wrapper.
            released (Callable, optional): Context in which nothing but the model holds its parameters.

        Returns:
            dict: The step's log variables, detached: nothing may hold the graph while the model is cut.
        """
        wrappers = list(optim_wrapper.values()) if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
        scale, scaled = _loss_scale(wrappers[0])
        self.mutator.taps.record(True)
        try:
            log_vars = step(data, optim_wrapper)
        finally:
            accumulated = self.mutator.taps.take()
            self.mutator.taps.record(False)
        log_vars = {key: value.detach() if isinstance(value, torch.Tensor) else value
                    for key, value in log_vars.items()}
        self.mutator.accumulate(accumulated, scale, drop_overflow=scaled)
        self.iterations += 1
        if self.iterations % self.interval == 0:
            with (released or nullcontext)():
                self.prune([wrapper.optimizer for wrapper in wrappers])
        return log_vars

    def prune(self, optimizers: List[torch.optim.Optimizer]) -> List[PrunedSet]:
        """Sum the scores over ranks and remove the least channels from model, optimizers and followers.

        Returns:
            list[PrunedSet]: What was removed; nothing if a score is NaN or every unit that a gradient reached is at
            its floor.
        """
        dist.all_reduce(self.mutator.fisher, 'sum')
        pruned: List[PrunedSet] = []
        try:
            pruned = self._needed(self.mutator.least_important(self.channels_per_event, self.block))
        except NotFiniteError as error:
            print_log(f'iteration {self.iterations}: {error}; this prune is skipped. Lower lr_ratio if it recurs',
                      logger='current', level=30)
        if pruned:
            if self.before_cut is not None:
                self.before_cut()
            self.cut(self.mutator.masks_without(pruned), optimizers)
            self.last_pruned = pruned[-1]
            print_log(f'iteration {self.iterations}: pruned {_listing(pruned)}', logger='current')
        self.mutator.fisher.zero_()
        return pruned

    def _needed(self, pruned: List[PrunedSet]) -> List[PrunedSet]:
        """Return the first sets that together reach the goal; all where they do not, or where blocks stay whole."""
        if self.goal is None or self.block > 1 or len(pruned) < 2:
            return pruned
        goal, mutator = self.goal, self.mutator

        def reaches(count: int) -> bool:
            return goal(mutator.masks_without(pruned[:count]))

        if not reaches(len(pruned)):
            return pruned
        low, high = 0, len(pruned)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle, high)
        return pruned[:high]

    def _save_to_state_dict(self, destination: Dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + ITERATIONS] = torch.tensor(self.iterations)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.iterations = int(state_dict.get(prefix + ITERATIONS, self.iterations))
        unexpected = args[3] if len(args) > 3 else []
        if prefix + ITERATIONS in unexpected:
            unexpected.remove(prefix + ITERATIONS)


def _listing(pruned: Sequence[PrunedSet]) -> str:
    """Return the sets of an event in one line."""
    if len(pruned) == 1:
        return f'channel {pruned[0].channel} of {pruned[0].unit}, score {pruned[0].score:.4g}'
    counts = Counter(one.unit for one in pruned)
    return (', '.join(f'{count} channels of {unit}' for unit, count in counts.items())
            + f', scores up to {max(one.score for one in pruned):.4g}')


def _loss_scale(wrapper: OptimWrapper) -> Tuple[Any, bool]:
    """Return the scale that this iteration's loss is multiplied by (before it is updated), and whether there is one."""
    scaler = getattr(wrapper, 'loss_scaler', None)
    if scaler is None:
        return 1.0, False
    current = scaler._get_scale_async() if hasattr(scaler, '_get_scale_async') else None
    # a tensor that the scaler updates in place: no host synchronisation here
    return (scaler.get_scale() if current is None else current.clone()), True
