"""Prune layer by layer, with training in between: Luo et al., ThiNet, ICCV 2017 (section 3.1)."""
from typing import Any, Dict, List, Mapping, Optional, Union

import numpy as np
from mmengine.runner import Runner

from ...arguments import whole_number
from ...registry import HOOKS
from .schedule import PruningSchedule


@HOOKS.register_module()
class LayerByLayerPruningHook(PruningSchedule):
    """Prune the units one after another, from input to output, with training after each, until the run ends.

    Channels are scored on the network as it is at that moment. A unit that loses no channel is passed over.

    Args:
        target (dict): See :class:`~mmprune.pruning.target.PruningTarget`: ``ratio`` or ``levels`` for shares of each
            unit; a cost, such as ``flops``, is reached by the same share for all units, in whole blocks (``align``)
            about the same.
        by_epoch (bool): Count the interval in epochs, else in iterations.
        interval (int): Training between two units.
        criterion, batches, runtime, repair: As in :class:`~mmprune.engine.schedules.schedule.PruningSchedule`.
    """

    measures_plans = False  # one for every unit, of which a single one is cut

    def __init__(self, criterion: Union[str, Dict[str, Any]], target: Mapping[str, Any], by_epoch: bool = True,
                 interval: int = 1, batches: int = 8, runtime: Optional[Mapping[str, Any]] = None,
                 repair: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(criterion, dict(target, scope='layer'), batches, runtime=runtime, repair=repair)
        whole_number(f'{type(self).__name__}: interval', interval)
        self.by_epoch, self.interval = by_epoch, interval
        self.state = dict(units=0)

    @property
    def finished(self) -> bool:
        """Whether every unit had its turn."""
        return bool(self.state['units'] >= len(self.algorithm.mutator.units))

    def before_train_epoch(self, runner: Runner) -> None:
        """Prune the next unit if it is due."""
        if self.by_epoch and runner.epoch % self.interval == 0 and self.state.get('epoch') != runner.epoch:
            self.state['epoch'] = runner.epoch
            self.next_unit(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Prune the next unit if it is due."""
        if not self.by_epoch and runner.iter % self.interval == 0:
            self.next_unit(runner)

    def next_unit(self, runner: Runner) -> Optional[str]:
        """Cut the next unit that loses channels; return its name, or None if no unit is left."""
        units = self.algorithm.mutator.units
        while not self.finished:
            unit = units[self.state['units']]
            self.state['units'] += 1
            if not self.target.prunes(self.algorithm.mutator, unit):
                continue  # before scores are computed, which may need data
            plan = self.plan(runner)
            masks: Dict[str, np.ndarray] = {other.name: other.kept for other in units}
            masks[unit.name] = plan.masks[unit.name]
            if (masks[unit.name] != unit.kept).any():
                self.cut(runner, plan._replace(masks=masks))
                return unit.name
        return None

    def after_train(self, runner: Runner) -> None:
        """Write the results; warn if the run was too short for all units."""
        left: List[str] = [unit.name for unit in self.algorithm.mutator.units[self.state['units']:]]
        if left:
            what = 'epochs' if self.by_epoch else 'iterations'
            runner.logger.warning(f'the run ended before {len(left)} units had their turn, the first {left[0]}: train '
                                  f'longer, or prune more often than every {self.interval} {what}')
        self.save(runner)
