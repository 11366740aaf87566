"""Prune any ``nn.Module`` in a few lines: score, mask, cut, and apply the structure to a fresh model."""
from itertools import islice
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import UserError, typed
from ..criteria.calibration import Calibration, LossOf
from ..criteria.criterion import Criterion, build_criterion
from ..latency.meter import Meter
from ..repair.refit import repair
from ..repair.result import Repair
from ..report.stages import StageResult, format_stages
from ..units.layer import OptimizerError, check_optimizers
from ..units.reasons import explain
from .example import mutator_of
from .forward_time import forward_ms
from .plan import Plan, make_plan, rescored
from .rounds import cut_in_rounds
from .target import PruningTarget, TargetError
from .time_target import MeasuredBlock, TimeTarget

Optimizers = Union[torch.optim.Optimizer, Iterable[torch.optim.Optimizer]]


class Pruner:
    """Prunes a model by a criterion, through residual connections, concats, groups and linear layers.

    The model's outputs keep their shape. It is changed in place, by :meth:`mask` and :meth:`cut` only.

    Args:
        model (nn.Module): The trained model.
        example_inputs (Tensor, tuple, dict, list or Callable): What it is called with to trace its channels: a tensor,
            positional or keyword arguments, or a function that runs the model, ``lambda model: model.encode(x)``. For
            branches that one call does not take, a list of calls, such as ``[(x,), dict(x=x, aux=True)]``. Costs are
            counted for one call.
        criterion (str, dict or Criterion): ``L1 L2 FPGM BNScale APoZ ThiNet Taylor Oracle MeanActivation NISP DCP
            Random GroupFisher WholeGroup LeastSquaresError MeasuredError``, or a dict with its arguments:
            ``dict(type='FPGM', distance='cosine')``, ``dict(type='OrderedBy', widths='GroupFisher',
            order='LeastSquaresError')``.
        ratio (float, optional): Share of each unit's channels that is removed; short for ``target=dict(ratio=...,
            scope='layer')``.
        target (dict, optional): :class:`~mmprune.pruning.target.PruningTarget` or its arguments: ``dict(flops=0.5)``,
            ``dict(levels={'conv2': 0.3})``, ``dict(params=0.3, max_pruned_ratio=0.8, align=8)``, ``dict(latency=0.5)``.
            The default scope of a dict is that of the criterion's paper; of a time it is ``global``.
        runtime (dict, optional): Where a target in time is measured, and the block of ``align='auto'``:
            ``dict(type='OnnxRuntime', threads=2)``; see :class:`~mmprune.latency.meter.Meter`.
        choice (dict, optional): Which units may be pruned, and their floors: ``include``, ``exclude`` and
            ``min_channels`` of :class:`~mmprune.units.choice.Choice`, such as ``dict(exclude='layer4')``.
        mutate_linear (bool): Prune what linear layers read and produce, too.
        remove_blocks (bool): Remove the residual blocks all of whose inner units are at their floor (``min_channels``,
            ``max_pruned_ratio``); their shortcuts stay.

    Attributes:
        mutator (ChannelMutator): The units, with ``.units``, ``.frozen`` (each with its reason) and ``.structure``.
        plan (Plan or None): What the last :meth:`mask` or :meth:`cut` chose.

    Raises:
        NoPrunableUnitError: Nothing can be pruned; the message says why.
        CriterionError: No criterion has that name.
        TargetError: The target is contradictory.
        PatternError: A pattern of the target or the choice matches no layer.
    """

    @typed
    def __init__(self, model: nn.Module, example_inputs: Any,
                 criterion: Union[str, Mapping[str, Any], Criterion] = 'L2', ratio: Optional[float] = None,
                 target: Union[None, Mapping[str, Any], PruningTarget] = None,
                 choice: Optional[Mapping[str, Any]] = None, mutate_linear: bool = True,
                 remove_blocks: bool = False, runtime: Optional[Mapping[str, Any]] = None) -> None:
        if ratio is not None and target is not None:
            raise TargetError('ratio and target are given; ratio is short for target=dict(ratio=..., scope="layer")')
        if ratio is not None:
            target = dict(ratio=ratio, scope='layer')
        self.mutator = mutator_of(model, example_inputs, choice, mutate_linear)
        self.criterion = build_criterion(criterion, self.mutator)
        self.target = None if target is None else PruningTarget.of(target, self.criterion.scope)
        if self.target is not None:  # report a pattern without a match now, not at the first cut
            self.target.check(self.mutator)
        self._meter = None if runtime is None else Meter(runtime, self.mutator)
        self._time: Optional[MeasuredBlock] = None
        self.remove_blocks = remove_blocks
        self.plan: Optional[Plan] = None
        self._masked: Optional[Plan] = None
        self._turns: Optional[List[Dict[str, np.ndarray]]] = None
        self._calibration: Optional[Calibration] = None
        self._stages: List[StageResult] = []

    @property
    def is_masked(self) -> bool:
        """Whether :meth:`mask` has set channels to zero that :meth:`cut` will remove."""
        return self._masked is not None

    @property
    def model(self) -> nn.Module:
        """The model, as it is at present."""
        return self.mutator.model

    def calibrate(self, loader: Iterable[Any], loss_fn: Union[None, str, Callable[[Any, Any], Tensor]] = None,
                  batches: Optional[int] = None) -> None:
        """Show the criterion data; the model does not learn from it.

        The batches stay in memory: the criterion looks at them again when channels are scored after a cut.

        Args:
            loader (iterable): Batches ``(inputs, targets)``; ``inputs`` is what the model is called with. Batches may
                be inputs only for criteria that look at activations alone. They are moved to the model's device.
            loss_fn (Callable or str, optional): ``loss_fn(outputs, targets) -> Tensor[]``, a mean over the samples; or
                ``outputs``, for criteria of squared gradients: what the outputs lose, without labels, see
                :class:`~mmprune.criteria.output_loss.OutputLoss`.
            batches (int, optional): How many batches at most.

        Raises:
            UserError: The loader is empty, or the criterion needs a loss function and none is given.
        """
        if self.criterion.needs_loss and loss_fn is None:
            raise UserError(f'{type(self.criterion).__name__} needs a loss: call calibrate(loader, loss_fn)')
        kept = list(islice(loader, batches))
        if not kept:
            raise UserError('calibrate got no batch: the loader is empty')
        loss = LossOf(self.mutator, loss_fn)
        self._calibration = Calibration(kept, loss, loss.targets)
        self.criterion.calibrate(self._calibration)

    def choose(self, progress: float = 1.0) -> Plan:
        """Score the channels and choose which stay; the model is not changed, and :meth:`cut` chooses anew.

        Args:
            progress (float): Share of the way from the dense model to the target.

        Raises:
            CriterionError: The criterion needs data and has seen none, or cannot score any unit.
            TargetError: No target is given, or it cannot be reached.
        """
        if self.target is None:
            raise TargetError('there is no target: give the Pruner ratio=0.3 or target=dict(flops=0.5)')
        self._calibrate_again()
        if self._meter is not None and self.target.needs_latency and not isinstance(self._time, TimeTarget):
            self._time = TimeTarget.measured(self._meter)
        elif self._meter is not None and self._time is None and self.target.needs_runtime:
            self._time = MeasuredBlock(self._meter.block_alone())
        self.plan = make_plan(self.mutator, self.criterion, self.target, progress, remove_blocks=self.remove_blocks,
                              time=self._time)
        return self.plan

    def _calibrate_again(self) -> None:
        if not self.criterion.is_calibrated and self._calibration is not None:
            self.criterion.calibrate(self._calibration)

    def mask(self) -> nn.Module:
        """Choose channels, set all of their weights to zero and return the model, which keeps its shape.

        It computes what the cut model will compute. :meth:`cut` before training: masked weights may become nonzero by
        an activation that does not keep zero, such as a sigmoid, or by the momentum of an optimizer.
        """
        plan = self.choose()
        self.criterion.adjust(plan.masks)
        self.mutator.mask(plan.masks)
        self._masked, self._turns = plan, None
        return self.model

    def cut(self, optimizers: Optimizers = (), progress: float = 1.0) -> nn.Module:
        """Remove the masked channels, or those that are chosen now, from the model and return it.

        Args:
            optimizers (Optimizer or iterable[Optimizer]): Optimizers of the model; their state is cut as well. The
                parameters stay the same objects.
            progress (float): Share of the way from the dense model to the target, unless the model is masked.

        Raises:
            OptimizerError: An optimizer cannot follow, or has none of the model's parameters.
            StructureError: Something else has cut the model.
        """
        optimizers = self._own(optimizers)
        plan = self._masked
        if plan is None:
            plan = self.choose(progress)
            self.criterion.adjust(plan.masks)
        self._note_dense()
        self.mutator.cut(plan.masks, optimizers)
        self.plan, self._masked, self._turns = plan, None, None
        return self.model

    def cut_next(self, optimizers: Optimizers = ()) -> bool:
        """Cut the next unit only, from input to output: ``while pruner.cut_next(): train(model)``.

        The first call chooses how many channels of each unit are removed; which channels is decided at the unit's
        turn, by scores of the model as it is then, unless it is masked. The units of a removed block are cut together.

        Args:
            optimizers (Optimizer or iterable[Optimizer]): As for :meth:`cut`, which raises the same errors.

        Returns:
            bool: Whether a unit was cut; after False the next call starts anew.
        """
        optimizers = self._own(optimizers)
        if self._turns is None:
            self.plan = self._masked or self.choose()
            self._turns = self.plan.turns(self.mutator)
        if not self._turns:
            self._turns = None
            return False
        masks = {**{unit.name: unit.kept for unit in self.mutator.units}, **self._turns[0]}
        if self._masked is None:
            self._calibrate_again()
            masks = rescored(self.mutator, self.criterion, masks)
            self.criterion.adjust(masks)
        self._note_dense()
        self.mutator.cut(masks, optimizers)
        self._turns.pop(0)
        if not self._turns:
            self._masked = None
        return True

    def repair(self, images: Union[Tensor, Iterable[Any], None] = None, dense: Optional[nn.Module] = None,
               how: str = 'full') -> Repair:
        """Solve again, in closed form, what reads the channels that were cut; see :func:`~mmprune.repair.refit.repair`.

        ``dense = copy.deepcopy(model); pruner.cut(); pruner.repair(images, dense)``. The criterion must see its data
        again before the next cut, which it does by itself where :meth:`calibrate` was called.

        Args:
            images (Tensor[N, *] or iterable, optional): All images, or batches as in :meth:`calibrate`, whose targets
                are not looked at. By default the batches of the calibration.
            dense (nn.Module, optional): A copy of the model from before the first cut; ``norms`` does without.
            how (str): ``full`` (minutes), ``bias`` (offsets only) or ``norms`` (statistics of batch norms only).

        Raises:
            UserError: The model is masked only, or there are no images; see also the function.
        """
        if self.is_masked:
            raise UserError('the model is masked, and a repair is made of a cut one: call cut() first')
        if images is None and self._calibration is None:
            raise UserError('there are no images: give repair some, or call calibrate first')
        batches = self._calibration.batches if images is None and self._calibration is not None else images
        inputs = batches if isinstance(batches, Tensor) else [
            batch[0] if isinstance(batch, (tuple, list)) else batch for batch in batches or ()]
        done = repair(self.mutator, dense, inputs, how)
        self.criterion.bind(self.mutator)  # what it has seen is the model before
        return done

    def cut_in_rounds(self, images: Union[Tensor, Sequence[Any], None] = None, rounds: Union[int, str] = 'auto',
                      how: str = 'full', optimizers: Optimizers = ()) -> List[Repair]:
        """Cut to the target in rounds, each followed by a :meth:`repair`; see :func:`~mmprune.pruning.rounds`.

        A dense copy of the model is in memory until the end.

        Args:
            images (Tensor[N, *] or sequence, optional): As for :meth:`repair`.
            rounds (int or str): How many; ``auto`` takes at most 8 % of the dense multiply-adds in each.
            how (str): As for :meth:`repair`.
            optimizers (Optimizer or iterable[Optimizer]): As for :meth:`cut`.

        Returns:
            list[Repair]: What was done in each round.
        """
        return cut_in_rounds(self, images, rounds, how, self._own(optimizers))

    def _own(self, optimizers: Optimizers) -> List[torch.optim.Optimizer]:
        """Return optimizers as a list, after checking that a cut will not fail halfway."""
        self.mutator.surgery.check_sizes()
        several = [optimizers] if isinstance(optimizers, torch.optim.Optimizer) else list(optimizers)
        own = {id(parameter) for parameter in self.model.parameters()}
        for optimizer in several:
            if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group['params']):
                raise OptimizerError(f'{type(optimizer).__name__} has no parameter of the model: give the optimizers '
                                     'that train it')
        check_optimizers(self.model, several)
        return several

    def sparsity(self) -> Dict[str, float]:
        """Return tensor name -> share of its elements that are zero, for every tensor that a unit touches."""
        tensors = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        return {name: float((tensors[name] == 0).double().mean())
                for name in self.mutator.surgery.members if name in tensors}

    def report(self) -> str:
        """Return a table of multiply-adds, parameters and forward time before and after, and why units stayed wider."""
        self._note_dense()
        is_cut = self.mutator.cost != self.mutator.complexity.cost({})
        stages = [*self._stages, self._stage('pruned')] if is_cut else self._stages
        notes = [] if self.plan is None else [*map(str, self.plan.attempts), *self.plan.notes()]
        return '\n'.join([format_stages(stages), *notes])

    def explain(self) -> str:
        """Return how many of the dense model's multiply-adds can go, and why the others stay, in a line."""
        return explain(self.mutator)

    def _note_dense(self) -> None:
        if not self._stages:
            self._stages.append(self._stage('dense'))

    def _stage(self, name: str) -> StageResult:
        cost = self.mutator.cost
        return StageResult(name, None, cost['macs'], cost['params'], forward_ms(self.mutator))
