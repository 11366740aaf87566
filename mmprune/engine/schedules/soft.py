"""Soft pruning: He et al., Soft Filter Pruning, IJCAI 2018 (algorithm 1); Filter Pruning via Geometric Median, 2019."""
from typing import Any, Collection, Dict, Mapping, Optional, Set, Union

import numpy as np
from mmengine.runner import Runner

from ...arguments import UserError, one_of, share, whole_number
from ...criteria.fpgm import DISTANCES
from ...graph.channels import Member
from ...models.pruning_algorithm import PruningAlgorithm
from ...pruning.plan import Plan
from ...registry import HOOKS
from ...units.choice import PatternError, Patterns, all_match, check_patterns
from .schedule import PruningSchedule

#: Least shift (or bias) behind a filter that is zero: behind a ReLU, a filter whose shift is not positive would get no
#: gradient and stay zero for ever, all of them in a network from scratch. The authors' code does not lift it.
LIFTED = 0.01


@HOOKS.register_module()
class SoftPruningHook(PruningSchedule):
    """Set the least important filters to zero every few epochs, let training recover them, and cut at the end.

    Only the filters of the producers become zero, so that gradients still reach them. The constant that is left of a
    channel is masked at its consumers while the run validates: outputs are those of the cut model.

    Args:
        rate_norm (float): Share of the filters of a layer that are kept by their norm (1: all).
        rate_dist (float): Share of the filters that are pruned because they are near the others.
        distance (str): ``euclidean`` or ``cosine``.
        epoch_prune (int): Epochs between two zeroings.
        layers (str, list[str] or dict, optional): Patterns of the layers to prune, or, as in the authors' scripts,
            ``dict(begin=0, end=57, step=3)``: first and last number of the parameters, and step. All by default.
        criterion, target (optional): Another criterion than FPGM with the rates above, and its target.
        batches, runtime: As in :class:`~mmprune.engine.schedules.schedule.PruningSchedule`.
        repair (dict, optional): As there. The filters that go at the end are then not zeroed first: the repair compares
            with the network in which they have recovered.
    """

    measures_plans = False  # one for every epoch, most of which are forgotten

    def __init__(self, rate_norm: float = 1.0, rate_dist: float = 0.4, distance: str = 'euclidean',
                 epoch_prune: int = 1, layers: Union[None, Patterns, Mapping[str, int]] = None,
                 criterion: Union[None, str, Dict[str, Any]] = None, target: Optional[Dict[str, Any]] = None,
                 batches: int = 8, runtime: Optional[Mapping[str, Any]] = None,
                 repair: Optional[Mapping[str, Any]] = None) -> None:
        if (criterion is None) != (target is None):
            raise UserError('SoftPruningHook: criterion and target come together; without them rate_norm and '
                            'rate_dist say what goes')
        name = type(self).__name__
        whole_number(f'{name}: epoch_prune', epoch_prune)
        share(f'{name}: rate_norm', rate_norm, 'it is the share of the filters that their norm keeps, more than 0 and '
              'at most 1', one=True)
        share(f'{name}: rate_dist', rate_dist, 'it is the share of the filters that goes, at least 0 and less than 1',
              zero=True)
        one_of(f'{name}: distance', distance, DISTANCES)
        super().__init__(criterion or dict(type='FPGM', distance=distance, rate_norm=rate_norm),
                         target or dict(ratio=1 - rate_norm + rate_dist, scope='layer'), batches, runtime=runtime,
                         repair=repair)
        self.epoch_prune = epoch_prune
        self.numbers = _numbers(layers) if isinstance(layers, Mapping) else None
        self.layers = None if isinstance(layers, Mapping) else [layers] if isinstance(layers, str) else layers

    def bind(self, algorithm: PruningAlgorithm) -> None:
        """Set the algorithm whose units are scored and cut, and find the layers to prune."""
        super().bind(algorithm)
        self._only = self._chosen()

    def before_train(self, runner: Runner) -> None:
        """Set filters to zero for the first time, in a model from scratch too."""
        super().before_train(runner)
        if runner.iter == 0:
            self.zero(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Set filters to zero every ``epoch_prune`` epochs and at the end; with a repair, the end only chooses them."""
        if self.is_last_train_epoch(runner) and self.repair is not None:
            self.choose(runner)
        elif self.every_n_epochs(runner, self.epoch_prune) or self.is_last_train_epoch(runner):
            self.zero(runner)

    def after_train(self, runner: Runner) -> None:
        """Cut the filters that were chosen last, and write the results."""
        self.cut(runner, Plan(self.masks(), {}, {}))
        self.save(runner)

    def choose(self, runner: Runner) -> Dict[str, np.ndarray]:
        """Choose filters, and remember for the cut at the end which: once they are zero they get other scores."""
        masks = self.plan(runner).masks
        self.state['masks'] = {name: mask.tolist() for name, mask in masks.items()}
        return masks

    def zero(self, runner: Runner) -> None:
        """Choose filters and set them to zero."""
        masks = self.choose(runner)
        surgery = self.algorithm.mutator.surgery
        surgery.mask(masks, lambda member: member.axis.role in ('out', 'depthwise'))
        for tensor, index in surgery.dropped(masks, is_shift).values():
            shift = tensor.detach()
            shift[index] = shift[index].clamp_min(LIFTED)

    def masks(self) -> Dict[str, np.ndarray]:
        """Return unit name -> which sets are not zero, ``ndarray[sets]`` of bool."""
        return {name: np.array(mask, dtype=bool) for name, mask in self.state['masks'].items()}

    def before_val_epoch(self, runner: Runner) -> None:
        """Mask the channels that are zero at their consumers."""
        surgery = self.algorithm.mutator.surgery
        dropped = surgery.dropped(self.masks(), reads)
        self._baked = surgery.bake(dropped)
        self._read = [(tensor.detach(), tensor.detach().clone()) for tensor, _ in dropped.values()]
        surgery.mask(self.masks(), reads)

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Restore the consumers for training."""
        for tensor, before in self._read:
            tensor.copy_(before)
        for undo in self._baked:
            undo()
        self._read, self._baked = [], []

    def only(self) -> Optional[Collection[str]]:
        """Return the units all of whose producers are chosen."""
        return self._only

    def _chosen(self) -> Optional[Set[str]]:
        """Return the names of the units that ``layers`` chooses; None for all."""
        mutator = self.algorithm.mutator
        if self.layers is not None:
            check_patterns('layers', self.layers, mutator.layers)
            return {unit.name for unit in mutator.units if all_match(unit.channels, self.layers)}
        if self.numbers is None:
            return None
        parameters = [name for name, _ in self.algorithm.architecture.named_parameters()]
        chosen = {parameters[number] for number in self.numbers if number < len(parameters)}
        found = {unit.name for unit in mutator.units
                 if chosen.issuperset(member.axis.tensor for member in unit.channels.producers)}
        if not found:
            raise PatternError('layers: begin, end and step name no unit as a whole: parameters '
                               f'{sorted(chosen)[:4]}... of {len(parameters)}')
        return found


def _numbers(layers: Mapping[str, int]) -> range:
    """Return the numbers of the parameters that ``begin``, ``end`` and ``step`` name."""
    for name, value in layers.items():
        if name not in ('begin', 'end', 'step') or isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UserError(f'SoftPruningHook: layers has {name}={value!r}; it takes begin, end and step, which are '
                            'whole numbers, or patterns')
    if not {'begin', 'end'} <= set(layers) or layers.get('step', 1) < 1:
        raise UserError(f'SoftPruningHook: layers is {dict(layers)}; it needs begin and end, and a step of 1 or more')
    return range(layers['begin'], layers['end'] + 1, layers.get('step', 1))


def is_shift(member: Member) -> bool:
    """Tell whether a member of a unit is the shift of a norm or the bias of a layer."""
    return member.axis.role == 'affine' and member.axis.tensor.endswith('.bias')


def reads(member: Member) -> bool:
    """Tell whether a member of a unit is one of its consumers."""
    return member.axis.role == 'in'
