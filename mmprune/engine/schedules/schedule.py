"""What all schedules share: calibration on the run's own data, one decision for all ranks, the cut, and its results."""
from typing import Any, Collection, Dict, List, Mapping, Optional, Union

from mmengine import dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...arguments import whole_number
from ...criteria.criterion import Criterion, build_criterion
from ...models.pruning_algorithm import PruningAlgorithm
from ...pruning.plan import Plan, make_plan
from ...pruning.target import PruningTarget
from ...units.complexity import COSTS
from ...units.layer import check_optimizers
from ...units.structure import format_structure
from ..distributed import ShrinkingDDP
from ..runner import FIX_SUBNET_JSON, KEPT_JSON, calibration_of, follow_averages, optimizers_of, save_pruned, unwrapped

#: The checkpoint of the pruned model.
PRUNED = 'pruned.pth'
KEY = 'mmprune_schedule'


class PruningSchedule(Hook):
    """A hook that prunes the run's :class:`~mmprune.models.pruning_algorithm.PruningAlgorithm` by a criterion.

    When the last channel is cut, ``pruned.pth`` (for a finetune config), ``fix_subnet.json`` (for a deploy config) and
    ``kept_channels.json`` (which channels, apart from the weights) are written to the work dir.

    Args:
        criterion (str or dict): See :class:`~mmprune.pruning.pruner.Pruner`.
        target (dict): See :class:`~mmprune.pruning.target.PruningTarget`; its scope is that of the criterion's paper
            where none is given.
        batches (int): Training batches that a criterion of activations or gradients looks at.
        remove_blocks (bool): Remove the residual blocks all of whose inner units sink to their floor.
    """

    priority = 45  # before an EMA is updated (50) and checkpoints are written (90)
    algorithm: PruningAlgorithm
    criterion: Criterion

    def __init__(self, criterion: Union[str, Dict[str, Any]], target: Mapping[str, Any], batches: int = 8,
                 remove_blocks: bool = False) -> None:
        whole_number(f'{type(self).__name__}: batches', batches)
        self.criterion_cfg, self.target_cfg, self.batches = criterion, target, batches
        self.remove_blocks = remove_blocks
        self.state: Dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the algorithm and bind the criterion."""
        model = unwrapped(runner)
        if not isinstance(model, PruningAlgorithm):
            raise TypeError(f'{type(self).__name__} needs a PruningAlgorithm, the model is {type(model).__name__}')
        if model is not runner.model and not isinstance(runner.model, ShrinkingDDP):
            raise TypeError(f'the model is wrapped in {type(runner.model).__name__}, whose parameters cannot shrink: '
                            "it needs model_wrapper_cfg=dict(type='mmprune.ShrinkingDDP')")
        follow_averages(runner, model)
        self.bind(model)

    def bind(self, algorithm: PruningAlgorithm) -> None:
        """Say whose units are scored and cut.

        Args:
            algorithm (PruningAlgorithm): The model.

        Raises:
            PatternError: A pattern of the schedule or its target matches no layer.
        """
        self.algorithm = algorithm
        self.criterion = build_criterion(self.criterion_cfg, algorithm.mutator)
        self.target = PruningTarget.of(self.target_cfg, self.criterion.scope)
        self.target.check(algorithm.mutator)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Save how far the schedule is."""
        checkpoint.setdefault(KEY, {})[type(self).__name__] = dict(self.state)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Continue where the checkpoint was written; weights that are only loaded start a schedule anew."""
        if runner._resume:
            self.state = dict(checkpoint.get(KEY, {}).get(type(self).__name__, self.state))

    def plan(self, runner: Runner, progress: float = 1.0) -> Plan:
        """Score the channels as they are now and choose which stay, the same on every rank."""
        if self.criterion.needs_data:
            self.criterion.calibrate(calibration_of(runner, self.algorithm, self.batches))
        plans: List[Any] = [make_plan(self.algorithm.mutator, self.criterion, self.target, progress, self.only(),
                                      self.remove_blocks)]
        dist.broadcast_object_list(plans)
        return Plan(*plans[0])

    def only(self) -> Optional[Collection[str]]:
        """Return the units that may lose channels; None for all of them."""
        return None

    def cut(self, runner: Runner, plan: Plan) -> None:
        """Cut model, optimizers and averages, and log what happened."""
        check_optimizers(self.algorithm.architecture, optimizers_of(runner))
        self.criterion.adjust(plan.masks)
        if isinstance(runner.model, ShrinkingDDP):
            for tensor in [*self.algorithm.architecture.parameters(), *self.algorithm.architecture.buffers()]:
                dist.broadcast(tensor.detach())  # criteria that adjust weights have seen each rank's own data
            with runner.model.released():
                self.algorithm.cut(plan.masks, optimizers_of(runner))
        else:
            self.algorithm.cut(plan.masks, optimizers_of(runner))
        mutator = self.algorithm.mutator
        dense, cost = mutator.complexity.cost({}), mutator.cost
        shares = ', '.join(f'{name} {cost[key] / dense[key]:.4f}' for name, key in COSTS.items())
        runner.logger.info(format_structure(mutator.structure, mutator.dense_widths, f'pruned to {shares} of dense:'))
        for note in plan.notes():
            runner.logger.warning(note)

    def save(self, runner: Runner) -> None:
        """Write the pruned checkpoint and its structure to the work dir, whole or not at all."""
        save_pruned(runner, self.algorithm, PRUNED, kept=True)
        if dist.is_main_process():
            runner.logger.info(f'wrote {PRUNED}, {FIX_SUBNET_JSON} and {KEPT_JSON} to {runner.work_dir}')
        dist.barrier()

