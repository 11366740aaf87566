"""Prune once, or in rounds with training in between."""
from typing import Any, Dict, Mapping, Optional, Union

from mmengine.runner import Runner

from ...arguments import UserError, whole_number
from ...registry import HOOKS
from ..run_repair import KEYS
from .schedule import PruningSchedule


@HOOKS.register_module()
class IterativePruningHook(PruningSchedule):
    """Prune in rounds: after round ``k`` of ``n``, ``1 - (1 - target) k / n`` of the dense model is left.

    Args:
        rounds (int): How often channels are scored and cut.
        epochs (int): Epochs of training between two rounds.
        start (int): Epochs of training before the first round.
        criterion, target, batches, remove_blocks, runtime, repair: As in
            :class:`~mmprune.engine.schedules.schedule.PruningSchedule`.
    """

    repair_keys = KEYS

    def __init__(self, criterion: Union[str, Dict[str, Any]], target: Mapping[str, Any], rounds: int = 3,
                 epochs: int = 1, start: int = 0, batches: int = 8, remove_blocks: bool = False,
                 runtime: Optional[Mapping[str, Any]] = None, repair: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(criterion, target, batches, remove_blocks, runtime, repair)
        for name, value, least in (('rounds', rounds, 1), ('epochs', epochs, 1), ('start', start, 0)):
            whole_number(f'{type(self).__name__}: {name}', value, least)
        self.rounds, self.epochs, self.start = rounds, epochs, start
        self.state = dict(rounds=0)

    def before_train(self, runner: Runner) -> None:
        """Refuse a run that ends before the last round."""
        super().before_train(runner)
        needed = self.start + (self.rounds - 1) * self.epochs
        if runner.max_epochs is not None and runner.max_epochs <= needed:
            raise UserError(f'{type(self).__name__}: the last of {self.rounds} rounds comes after {needed} epochs, '
                            f'but the run has {runner.max_epochs} (train_cfg.max_epochs)')

    def before_train_epoch(self, runner: Runner) -> None:
        """Prune if a round is due."""
        done = self.state['rounds']
        if done == self.rounds or runner.epoch < self.start + done * self.epochs:
            return
        self.prune(runner, (done + 1) / self.rounds, done / self.rounds)
        self.state['rounds'] = done + 1
        if done + 1 == self.rounds:
            self.save(runner)


@HOOKS.register_module()
class OneShotPruningHook(PruningSchedule):
    """Prune once, before training; then train the pruned model, or end the run.

    Args:
        stop (bool): End the run when the model is cut; a finetune config starts from ``pruned.pth``.
        criterion, target, batches, remove_blocks, runtime, repair: As in
            :class:`~mmprune.engine.schedules.schedule.PruningSchedule`.
    """

    repair_keys = KEYS

    def __init__(self, criterion: Union[str, Dict[str, Any]], target: Mapping[str, Any], batches: int = 8,
                 stop: bool = True, remove_blocks: bool = False,
                 runtime: Optional[Mapping[str, Any]] = None, repair: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(criterion, target, batches, remove_blocks, runtime, repair)
        self.stop = stop
        self.state = dict(pruned=False)

    def before_train(self, runner: Runner) -> None:
        """Prune, unless the run is resumed from a checkpoint that is pruned."""
        super().before_train(runner)
        if not self.state['pruned']:
            self.prune(runner)
            self.state['pruned'] = True
            self.save(runner)
        if self.stop:
            runner.train_loop.stop_training = True
