"""The hook of a Group Fisher run: log what the structure costs, save at the target and end the run."""
import time
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..arguments import UserError, one_of, share, whole_number
from ..group_fisher.algorithm import GroupFisherAlgorithm
from ..latency.block import AUTO
from ..pruning.time_target import CORRECTIONS, NEAR
from ..registry import HOOKS
from ..units.complexity import LATENCY
from ..units.reasons import explain
from .distributed import GroupFisherDDP
from .early_stop import Stoppable, logger_is_due
from .floors import FloorWatch
from .latency_record import LatencyRecord
from .outlook import check_reach, iterations_needed, largest_block
from .resource import RESOURCES, Resource, Time
from .run_repair import KEYS as REPAIR_KEYS
from .run_repair import EndRepair
from .runner import FIX_SUBNET_JSON, algorithm_of, save_pruned, unwrapped

KEY, REPAIR_KEY = 'mmprune_latency', 'mmprune_repair'  # of a checkpoint
#: What to do about a run that is too short.
REMEDY = 'Train longer (max_epochs), prune more often (interval) or more at a time (channels_per_event)'


@HOOKS.register_module()
class ResourceInfoHook(Hook):
    """Follow the cost of the structure, save checkpoints at ratios of the dense cost, stop at the last of them.

    The ratio is computed from traced shapes, without a forward pass. The log and the visualizer get it with the latest
    pruned unit (its name in the log, its number in the visualizer) and score; the log also the time to the target, and
    the units that have come to their floor since the last line.

    Args:
        interval (int): Iterations between two log lines.
        resource_type (str): ``flops`` (multiply-adds), ``params``, ``acts``, or ``latency``: the run ends when the
            latency table says so and a measurement beside the dense model agrees.
        save_ckpt_thr (list[float]): Ratios at which ``{resource_type}_{ratio}.pth`` and ``fix_subnet.json`` are
            written to the work dir.
        early_stop (bool): End the run at the least ratio.
        runtime (dict, optional): Where time is measured; see :class:`~mmprune.latency.meter.Meter`. Needed for
            ``latency``, for scores that are divided by it (``normalization_type``), and for ``align='auto'``, which
            alone takes no table, only the block.
        repair (dict, optional): ``images`` and ``how`` of a repair at the last target, before its checkpoint is
            written; see :class:`~mmprune.engine.run_repair.EndRepair`.
    """

    #: What went wrong, once the run has ended above its target; tools/train.py ends with it.
    missed: Optional[str] = None
    priority = 55  # after hooks that change the model (EMA: 50), before the logger (60)

    def __init__(self, interval: int = 10, resource_type: str = 'flops', save_ckpt_thr: Sequence[float] = (0.5,),
                 early_stop: bool = True, runtime: Optional[Mapping[str, Any]] = None,
                 repair: Optional[Mapping[str, Any]] = None) -> None:
        whole_number(f'{type(self).__name__}: interval', interval)
        one_of('ResourceInfoHook: resource_type', resource_type, RESOURCES)
        if save_ckpt_thr and not isinstance(save_ckpt_thr, (list, tuple)):
            raise UserError(f'ResourceInfoHook: save_ckpt_thr is {save_ckpt_thr!r}; it must be a list of target ratios')
        if not save_ckpt_thr:
            raise UserError('ResourceInfoHook: save_ckpt_thr is empty; it must hold at least one target ratio')
        for ratio in save_ckpt_thr:
            share('the target ratio', ratio, f'it is what stays of the dense {resource_type}, so it must lie between '
                  '0 and 1')
        self.interval, self.resource_type, self.early_stop = interval, resource_type, early_stop
        self.targets: List[float] = sorted(save_ckpt_thr, reverse=True)
        self.finished = False
        self.record = None if runtime is None else LatencyRecord(runtime)
        self.repair = EndRepair.of(repair, type(self).__name__, REPAIR_KEYS[:-1])
        self._corrections: List[float] = []  # factors by which measurements have corrected the table
        self._block: Optional[int] = None  # in which channels go in the run that is resumed
        if resource_type == LATENCY and runtime is None:
            raise UserError("ResourceInfoHook: resource_type is 'latency', and nothing says where it is measured: give "
                            "runtime=dict(type='OnnxRuntime', threads=1)")

    def before_train(self, runner: Runner) -> None:
        """Find the algorithm, let an EMA copy be cut too, measure what the run needs to know of its runtime."""
        self.algorithm = algorithm_of(runner, 'ResourceInfoHook', GroupFisherAlgorithm, GroupFisherDDP, 'a prune run')
        self._use_time(runner)
        ratio = self.ratio()
        self.pending = [target for target in self.targets if ratio > target]
        if not self.pending:
            raise UserError(f'the target is already met: {self.resource_type} are at {ratio:.4f} of the dense model, '
                            f'the target is {self.targets[-1]}')
        runner.logger.info(explain(self.algorithm.mutator))
        self.tell_outlook(runner)
        self._floors = FloorWatch(self.algorithm)
        self._tell_floors(runner)
        if runner.cfg.get('compile'):
            runner.logger.warning('every cut changes shapes: a prune run is compiled again and again, and not at all '
                                  "after torch's recompile limit; set compile in the finetune config instead")
        self.finished = False
        self._began, self._first_ratio = time.monotonic(), ratio
        self._set_goal()
        if self.repair is not None:
            self.repair.watch(self.algorithm)
        self._loader = runner.train_loop.dataloader
        runner.train_loop.dataloader = Stoppable(self._loader, self)

    def _use_time(self, runner: Runner) -> None:
        """Give the algorithm what is measured: a table where time counts, else the block; follow a target of time."""
        mutator = self.algorithm.mutator
        self.resource = Resource(self.resource_type, mutator)
        if self.record is None:
            self.algorithm.check_unmeasured()
            return
        if self.resource_type == LATENCY or mutator.divides_by_time:
            mutator.table = table = self.record.start(runner, mutator)
            runner.logger.info(f'the dense model takes {table.dense_total_ms:.2f} ms in {table.where}')
            if self.resource_type == LATENCY:
                table.check_trusted()
                self.resource = Time(mutator, table, float(np.prod(self._corrections)))
            measured = table.block
        elif self.algorithm.align == AUTO:
            measured = self.record.block(runner, mutator)
        else:
            runner.logger.warning("ResourceInfoHook: runtime is not used, since neither the target nor the scores are "
                                  "in time, and align is not 'auto'")
            return
        blocks = self.algorithm.blocks_for(measured)
        self.algorithm.block = (self._block if self._block in blocks else
                                largest_block(self.resource, self.targets[-1], blocks))
        runner.logger.info(f'widths go in blocks of {self.algorithm.block} channels')

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Save what was measured, and where the run can be resumed what its repair compares with."""
        if self.repair is not None and 'optimizer' in checkpoint:
            checkpoint[REPAIR_KEY] = self.repair.state()
        if self.record is not None:
            checkpoint[KEY] = dict(self.record.state, corrections=list(self._corrections), block=self.algorithm.block)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Take over what the run that is resumed has measured, and what its repair compares with."""
        if self.repair is not None and runner._resume:
            self.repair.load_state(unwrapped(runner), checkpoint.get(REPAIR_KEY, {}))  # type: ignore[arg-type]
        if self.record is not None and runner._resume:
            measured = dict(checkpoint.get(KEY, {}))
            self._corrections, self._block = measured.pop('corrections', []), measured.pop('block', None)
            self.record.state = measured

    def tell_outlook(self, runner: Runner) -> None:
        """Raise TargetError if the last target cannot be reached; say how long it takes, warn if the run is shorter."""
        check_reach(self.resource, self.targets[-1], self.algorithm.block)
        even, most = iterations_needed(self.algorithm, self.resource, self.targets[-1])
        left = runner.max_iters - runner.iter
        epochs = '' if runner.max_epochs <= 1 else f' ({even / len(runner.train_dataloader):.3g} epochs)'
        takes = (f'{self.targets[-1]:g} of the dense {self.resource_type} take about {even} iterations{epochs} if all '
                 f'units lose alike and {most} if the cheapest channels go first '
                 f'({self.algorithm.channels_per_event} in each event, every {self.algorithm.interval}), and there are '
                 f'{left}')
        if most <= left:
            runner.logger.info(f'{takes}; the run ends at its target')
        else:
            chance = 'will probably' if even > left else 'may'
            runner.logger.warning(f'this run {chance} miss its target: {takes}. {REMEDY}')

    def ratio(self) -> float:
        """Return the present cost over the dense cost."""
        return self.resource.share()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Report the ratio; save at a target, and stop at the last target."""
        due = self.every_n_train_iters(runner, self.interval)
        if self.algorithm.iterations % self.algorithm.interval and not due:
            return  # nothing was pruned in this iteration
        ratio, last = self.ratio(), self.algorithm.last_pruned
        scalars: Dict[str, float] = {f'{self.resource_type}_ratio': ratio}
        if last is not None:
            scalars['pruned_score'] = last.score
            scalars['pruned_unit'] = list(self.algorithm.mutator.structure).index(last.unit)
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'train/{name}', value)
        if due:
            pruned = f', last pruned {last.unit} (score {last.score:.4g})' if last else ''
            runner.logger.info(f'{self.resource_type}: {ratio:.4f} of dense, target {self.targets[-1]}'
                               f'{self._eta(ratio)}{pruned}')
            self._tell_floors(runner)
        while self.pending and ratio <= self.pending[0]:
            if not self._is_measured(runner):
                break
            self._save(runner, self.pending.pop(0), ratio)
            self._set_goal()
        if self.early_stop and not self.pending:
            self.finished = True
            runner.train_loop.stop_training = True
            if not logger_is_due(runner, batch_idx):
                runner.visualizer.add_scalars(scalars, step=runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        """Say how many units are at their floor; warn if a target was not reached."""
        runner.train_loop.dataloader = self._loader
        self._tell_floors(runner)
        runner.logger.info(self._floors.summary())
        if self.pending:
            self.missed = (f'the run ended at {self.ratio():.4f} of the dense {self.resource_type}, above the target '
                           f'{self.pending[-1]}: no checkpoint was written for it. {REMEDY}')
            runner.logger.warning(self.missed)

    def _tell_floors(self, runner: Runner) -> None:
        news = self._floors.news()
        if news:
            runner.logger.info(news)

    def _set_goal(self) -> None:
        """Let the event that reaches the next target remove no more than it takes."""
        if not self.pending:
            self.algorithm.goal = None
            return
        target, resource = self.pending[0], self.resource
        self.algorithm.goal = lambda masks: resource.share(masks) <= target

    def _is_measured(self, runner: Runner) -> bool:
        """Tell whether the model is as fast as its table says; if not, correct the table, so that the run goes on."""
        if not isinstance(self.resource, Time) or self.record is None or not self.record.is_here:
            return True
        mutator, target = self.algorithm.mutator, self.pending[0]
        shares = [self.record.share(mutator.sets) if dist.is_main_process() else 0.0]
        dist.broadcast_object_list(shares)
        table = self.resource.table
        measured = table.total_ms(shares[0]) / table.dense_total_ms
        runner.logger.info(f'latency: asked {target:g} of dense, predicted {self.resource.share():.4f}, measured '
                           f'{measured:.4f} ({measured * table.dense_total_ms:.2f} ms)')
        if measured <= target * (1 + NEAR) or len(self._corrections) == CORRECTIONS:
            return True
        self._corrections.append(measured / self.resource.share())
        self.resource.correction *= self._corrections[-1]
        self._set_goal()
        return False

    def _eta(self, ratio: float) -> str:
        """Return the time to the last target at the mean speed since the start, for the log."""
        done = self._first_ratio - ratio
        if done <= 0:
            return ''
        seconds = int((time.monotonic() - self._began) * max(0.0, ratio - self.targets[-1]) / done)
        return f', eta {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'

    def _save(self, runner: Runner, target: float, ratio: float) -> None:
        if self.repair is not None and target == self.targets[-1]:
            self.repair.finish(runner, self.algorithm)
        name = f'{self.resource_type}_{target:.2f}.pth'
        save_pruned(runner, self.algorithm, name)
        if dist.is_main_process():
            print_log(f'{self.resource_type} are at {ratio:.4f} of the dense model: wrote {name} and '
                      f'{FIX_SUBNET_JSON} to {runner.work_dir}', logger='current')
        dist.barrier()
