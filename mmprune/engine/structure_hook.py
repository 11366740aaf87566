"""The hook of prune and finetune runs that logs the structure and writes that of a pruned model."""
import os
from typing import Any, Optional

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..arguments import whole_number
from ..models.prune_sub_model import structure_of
from ..models.pruning_algorithm import PruningAlgorithm
from ..registry import HOOKS
from ..units.structure import format_structure, write_structure
from .runner import FIX_SUBNET_JSON, unwrapped


@HOOKS.register_module()
class PruningStructureHook(Hook):
    """Log the structure; while finetuning write ``fix_subnet.json`` beside the checkpoints.

    A finetuning that has taken over the constant learning rate of its prune config is told so.

    Args:
        by_epoch (bool): Count the interval in epochs, else in iterations.
        interval (int): How often the structure is logged.
    """

    def __init__(self, by_epoch: bool = True, interval: int = 1) -> None:
        whole_number(f'{type(self).__name__}: interval', interval)
        self.by_epoch, self.interval = by_epoch, interval

    def before_train(self, runner: Runner) -> None:
        """Log the structure at the start; write it if the model is already pruned."""
        model = unwrapped(runner)
        # a model that is pruned for the second time is not pruned yet
        structure = None if isinstance(model, PruningAlgorithm) else structure_of(model)
        if structure is not None and dist.is_main_process():
            path = os.path.join(runner.work_dir, FIX_SUBNET_JSON)
            write_structure(structure, path)
            runner.logger.info(f'the structure of the pruned model is in {path}')
        dense = runner.cfg.get('dense_schedule')
        if structure is not None and dense and dense.get('param_scheduler') and not runner.cfg.get('param_scheduler'):
            runner.logger.warning('this finetuning runs by the schedule of the prune config: the learning rate is '
                                  'constant. param_scheduler, train_cfg = finetune_schedule(_base_) takes that of the '
                                  'dense training')
        self._show(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the structure every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._show(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Log the structure every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._show(runner)

    def _show(self, runner: Runner) -> None:
        model = unwrapped(runner)
        if isinstance(model, PruningAlgorithm):
            runner.logger.info(format_structure(model.mutator.structure, model.mutator.dense_widths,
                                                'channels that stay:'))
