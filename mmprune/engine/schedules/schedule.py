"""What all schedules share: scores from the run's own data, the same decision on all ranks, the cut, its results."""
from contextlib import nullcontext
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Union

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ...arguments import UserError, whole_number
from ...criteria.criterion import Criterion, build_criterion, make_criterion
from ...models.pruning_algorithm import PruningAlgorithm
from ...pruning.plan import Plan, make_plan
from ...pruning.target import PruningTarget
from ...pruning.time_target import MeasuredBlock, TimeTarget
from ...units.complexity import COSTS, amount
from ...units.layer import check_optimizers
from ...units.structure import format_structure
from ..distributed import ShrinkingDDP, broadcast_tensors
from ..latency_record import LatencyRecord
from ..run_repair import KEYS as REPAIR_KEYS
from ..run_repair import RunRepair
from ..runner import FIX_SUBNET_JSON, KEPT_JSON, algorithm_of, calibration_of, optimizers_of, save_pruned

#: The checkpoint of the pruned model, and the key in checkpoints under which schedules keep their state.
PRUNED, KEY = 'pruned.pth', 'mmprune_schedule'
#: Batches that stay in memory.
MOST_BATCHES = 10_000


class PruningSchedule(Hook):
    """A hook that prunes the run's :class:`~mmprune.models.pruning_algorithm.PruningAlgorithm` by a criterion.

    When the last channel is cut, ``pruned.pth`` (for a finetune config), ``fix_subnet.json`` (for a deploy config) and
    ``kept_channels.json`` (which channels, apart from the weights) are written to the work dir.

    Args:
        criterion (str or dict): See :class:`~mmprune.pruning.pruner.Pruner`.
        target (dict): See :class:`~mmprune.pruning.target.PruningTarget`; without a scope, that of the criterion's
            paper.
        batches (int): Number of training batches from which criteria of activations or gradients compute scores.
        remove_blocks (bool): Remove a residual block if all units inside it are pruned down to their floor.
        runtime (dict, optional): Where a target in time is measured, and the block of ``align='auto'``; see
            :class:`~mmprune.latency.meter.Meter`.
        repair (dict, optional): What reads removed channels is solved again after each cut, against the network as it
            was just before: the arguments of :class:`~mmprune.engine.run_repair.RunRepair`, ``dict(images=512)``.
    """

    #: What ``repair`` may hold.
    repair_keys: Sequence[str] = REPAIR_KEYS[:-1]
    #: Whether a plan for a time is measured, and made anew where the latency table was wrong.
    measures_plans = True

    priority = 45  # before an EMA is updated (50) and checkpoints are written (90)
    algorithm: PruningAlgorithm
    _orders: Mapping[str, Any] = {}
    criterion: Criterion

    def __init__(self, criterion: Union[str, Dict[str, Any]], target: Mapping[str, Any], batches: int = 8,
                 remove_blocks: bool = False, runtime: Optional[Mapping[str, Any]] = None,
                 repair: Optional[Mapping[str, Any]] = None) -> None:
        self.repair = RunRepair.of(repair, type(self).__name__, self.repair_keys)
        whole_number(f'{type(self).__name__}: batches', batches, most=MOST_BATCHES)
        make_criterion(criterion)  # raises, as the next does, before a large model is built
        if PruningTarget.of(target).needs_runtime and runtime is None:
            raise UserError(f"{type(self).__name__}: the target is measured, and nothing says where: give "
                            "runtime=dict(type='OnnxRuntime', threads=1)")
        self.record = None if runtime is None else LatencyRecord(runtime)
        self.criterion_cfg, self.target_cfg, self.batches = criterion, target, batches
        self.remove_blocks = remove_blocks
        self.state: Dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the algorithm and bind the criterion."""
        self.bind(algorithm_of(runner, type(self).__name__, PruningAlgorithm, ShrinkingDDP, 'it'))

    def bind(self, algorithm: PruningAlgorithm) -> None:
        """Set the algorithm whose units are scored and cut.

        Raises:
            PatternError: A pattern of the schedule or its target matches no layer.
        """
        self.algorithm = algorithm
        algorithm.mutator.take_orders(self._orders)
        self.criterion = build_criterion(self.criterion_cfg, algorithm.mutator)
        self.target = PruningTarget.of(self.target_cfg, self.criterion.scope)
        self.target.check(algorithm.mutator)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Save the state of the schedule."""
        measured = {} if self.record is None else dict(latency=self.record.state)
        orders = {name: order.tolist() for name, order in self.algorithm.mutator.orders.items()}
        ranks = dict(orders=orders) if orders else {}
        checkpoint.setdefault(KEY, {})[type(self).__name__] = dict(self.state, **measured, **ranks)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Restore the state if the run is resumed; where only weights are loaded, the schedule starts anew."""
        if runner._resume:
            self.state = dict(checkpoint.get(KEY, {}).get(type(self).__name__, self.state))
            self._orders = self.state.pop('orders', {})  # the algorithm is bound when training starts
            measured = self.state.pop('latency', {})
            if self.record is not None:
                self.record.state = measured

    def plan(self, runner: Runner, progress: float = 1.0) -> Plan:
        """Score the channels as they are now and choose which stay, the same on every rank."""
        if self.criterion.needs_data:
            self.criterion.calibrate(calibration_of(runner, self.algorithm, self.batches))
        mutator = self.algorithm.mutator
        plan = make_plan(mutator, self.criterion, self.target, progress, self.only(), self.remove_blocks,
                         self._time(runner))
        found: List[Any] = [plan, mutator.orders]
        dist.broadcast_object_list(found)
        mutator.take_orders(found[1])
        return Plan(*found[0])

    def _time(self, runner: Runner) -> Optional[MeasuredBlock]:
        """Return the latency table of the run, or its block; rank 0, whose plan counts, measures plans too."""
        if self.record is None or not self.target.needs_runtime:
            return None
        if not self.target.needs_latency:
            return MeasuredBlock(self.record.block(runner, self.algorithm.mutator))
        table = self.record.start(runner, self.algorithm.mutator)
        measures = self.measures_plans and self.record.is_here and dist.is_main_process()
        return TimeTarget(table, self.record.share if measures else None)

    def only(self) -> Optional[Collection[str]]:
        """Return the units that may lose channels; None for all of them."""
        return None

    def cut(self, runner: Runner, plan: Plan, twins: Sequence[nn.Module] = ()) -> None:
        """Cut model, optimizers and averages, repair them, and log what happened.

        Args:
            runner (Runner): Of the run.
            plan (Plan): Which channels stay.
            twins (sequence[nn.Module]): What the repair compares with; by default the network as it is now.
        """
        check_optimizers(self.algorithm.architecture, optimizers_of(runner))
        if self.repair is not None and not twins:
            twins = self.repair.twins(self.algorithm)
        self.criterion.adjust(plan.masks)
        wrapper = runner.model if isinstance(runner.model, ShrinkingDDP) else None
        if wrapper is not None:
            broadcast_tensors(self.algorithm.architecture)  # a criterion adjusts weights by the data of its rank
        with nullcontext() if wrapper is None else wrapper.released():
            self.algorithm.cut(plan.masks, optimizers_of(runner))
        mutator = self.algorithm.mutator
        dense, cost = mutator.complexity.cost({}), mutator.cost
        shares = ', '.join(f'{name} {amount(cost, name) / amount(dense, name):.4f}' for name in COSTS)
        runner.logger.info(format_structure(mutator.structure, mutator.dense_widths, f'pruned to {shares} of dense:'))
        for note in plan.notes():
            runner.logger.warning(note)
        if self.repair is not None:
            self.repair(runner, self.algorithm, twins)

    def prune(self, runner: Runner, progress: float = 1.0, since: float = 0.0) -> None:
        """Score and cut all units; where a repair says so, in rounds, each of which scores the repaired network.

        Args:
            runner (Runner): Of the run.
            progress (float): Share of the way from the dense model to the target.
            since (float): Share of the way that the network has gone.
        """
        plan = self.plan(runner, progress)
        mutator = self.algorithm.mutator
        rounds = 1 if self.repair is None else self.repair.rounds_of(mutator, plan.masks)
        twins = self.repair.twins(self.algorithm) if self.repair is not None and rounds > 1 else ()
        for number in range(1, rounds):
            some = self.plan(runner, since + (progress - since) * number / rounds)
            if any((some.masks[unit.name] != unit.kept).any() for unit in mutator.units):
                self.cut(runner, some, twins)
        self.cut(runner, plan if rounds == 1 else self.plan(runner, progress), twins)

    def save(self, runner: Runner) -> None:
        """Write the pruned checkpoint and its structure to the work dir, whole or not at all."""
        save_pruned(runner, self.algorithm, PRUNED, kept=True)
        if dist.is_main_process():
            runner.logger.info(f'wrote {PRUNED}, {FIX_SUBNET_JSON} and {KEPT_JSON} to {runner.work_dir}')
        dist.barrier()

