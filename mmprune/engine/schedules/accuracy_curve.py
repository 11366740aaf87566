"""Accuracy against time before any training: prune in rounds, repair after each, evaluate."""
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

from mmengine import dist
from mmengine.runner import Runner

from ...arguments import UserError, share
from ...files import write_json
from ...pruning.target import PruningTarget
from ...registry import HOOKS
from ...units.complexity import COSTS, amount
from ..evaluation import evaluation_of
from .schedule import PruningSchedule

#: In the work dir: the points of the curve, the dense network first.
CURVE_JSON = 'curve.json'


@HOOKS.register_module()
class AccuracyCurveHook(PruningSchedule):
    """Prune to one share after the other, repair after each against the dense network, and evaluate what is left.

    Nothing is trained. ``curve.json`` of the work dir gets a point for each share, the dense network first: ``asked``,
    ``flops`` and ``params`` (shares of the dense network), with a ``runtime`` ``ms`` (by its latency table) and
    ``latency`` (share), and ``metrics`` of the config's validation, else of its test.

    Args:
        criterion, batches, runtime, repair: As in :class:`~mmprune.engine.schedules.schedule.PruningSchedule`.
        shares (list[float]): Of the dense time where there is a ``runtime``, else of the FLOPs; falling.
    """

    #: The table's word is taken.
    measures_plans = False

    def __init__(self, criterion: Union[str, Dict[str, Any]], shares: Sequence[float], batches: int = 8,
                 runtime: Optional[Mapping[str, Any]] = None, repair: Optional[Mapping[str, Any]] = None) -> None:
        if not shares or list(shares) != sorted({*shares}, reverse=True):
            raise UserError(f'{type(self).__name__}: shares is {list(shares)}; they must fall, each a share of the '
                            'dense network that stays')
        self.cost = 'flops' if runtime is None else 'latency'
        self.shares = [share(f'{type(self).__name__}: shares', one, 'each is what stays of the dense network, so it '
                             'must lie between 0 and 1') for one in shares]
        super().__init__(criterion, {self.cost: shares[-1]}, batches, runtime=runtime, repair=repair)

    def before_train(self, runner: Runner) -> None:
        """Make the curve, and end the run."""
        super().before_train(runner)
        self.evaluation = evaluation_of(runner.cfg)
        if self.evaluation is None:
            raise UserError(f'{type(self).__name__}: the config has neither val_dataloader and val_evaluator nor those '
                            'of a test, so there is no accuracy')
        points = [self._point(runner, 1.0)]
        twins = () if self.repair is None else self.repair.twins(self.algorithm)
        for one in self.shares:
            self.target = PruningTarget.of({self.cost: one}, self.criterion.scope)
            self.cut(runner, self.plan(runner), twins)
            points.append(self._point(runner, one))
            if dist.is_main_process():
                write_json(points, f'{runner.work_dir}/{CURVE_JSON}')
        runner.train_loop.stop_training = True

    def _point(self, runner: Runner, asked: float) -> Dict[str, Any]:
        """Return a point of the curve; every rank waits for the first one."""
        mutator = self.algorithm.mutator
        dense, cost = mutator.complexity.cost({}), mutator.cost
        point: Dict[str, Any] = dict(asked=asked, **{name: amount(cost, name) / amount(dense, name) for name in COSTS})
        if self.record is not None:
            table = self.record.start(runner, mutator)
            point['ms'] = table.predict({unit.name: int(unit.kept.sum()) for unit in mutator.units})
            point['latency'] = point['ms'] / table.dense_total_ms
        found: List[Any] = [None]
        if dist.is_main_process():
            found = [self.evaluation(self.algorithm.architecture)]  # type: ignore[misc]
        dist.broadcast_object_list(found)
        point['metrics'] = found[0]
        runner.logger.info(f'{asked:g} of the dense {self.cost}: {point["metrics"]}')
        return point
