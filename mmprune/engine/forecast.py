"""What a prune config will leave of its model, before anything is trained."""
from typing import Any, Mapping

from ..config import plain
from ..criteria.criterion import build_criterion
from ..models.pruning_algorithm import PruningAlgorithm
from ..pruning.plan import make_plan
from ..pruning.target import TargetError
from ..registry import HOOKS
from ..units.structure import Structure
from .schedules.schedule import PruningSchedule


def schedule_of(cfg: Mapping[str, Any]) -> PruningSchedule:
    """Build the schedule of a prune config.

    Args:
        cfg (Config): With a hook of :mod:`mmprune.engine.schedules` among its ``custom_hooks``.

    Raises:
        TargetError: There is none.
    """
    for hook in cfg.get('custom_hooks') or []:
        if str(hook['type']).startswith('mmprune.'):
            built = HOOKS.build(plain(hook))
            if isinstance(built, PruningSchedule):
                return built
    raise TargetError('the config has no pruning schedule among its custom_hooks, such as mmprune.OneShotPruningHook')


def forecast(schedule: PruningSchedule, algorithm: PruningAlgorithm) -> Structure:
    """Return how many channels of each unit a schedule will leave.

    Shares of each unit are the same for all weights, so the model need not be trained; nor is data needed: criteria
    that look at it are replaced by random scores. The model is not changed.

    Args:
        schedule (PruningSchedule): Of :func:`schedule_of`.
        algorithm (PruningAlgorithm): The model that it is to prune.

    Raises:
        TargetError: Channels of all units compete, so that counts depend on the weights.
        PatternError: A pattern of the schedule matches no layer.
    """
    schedule.bind(algorithm)
    target = schedule.target
    if target.scope == 'global' and target.given:
        raise TargetError(f"{target.given[0]} with scope='global' takes the least channels of all units: how many stay "
                          'of each depends on the weights. The run writes fix_subnet.json')
    criterion = schedule.criterion
    if criterion.needs_data:
        criterion = build_criterion('Random', algorithm.mutator)
    masks = make_plan(algorithm.mutator, criterion, target, only=schedule.only()).masks
    return {unit.name: int(masks[unit.name].sum()) * unit.multiplicity for unit in algorithm.mutator.units}
