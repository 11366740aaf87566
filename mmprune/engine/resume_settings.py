"""What a prune run was told, kept in its checkpoints, so that a resume with something else is noticed."""
from typing import Any, Dict, Mapping

from mmengine.runner import Runner

from ..group_fisher.algorithm import GroupFisherAlgorithm
from .hook import ResourceInfoHook
from .runner import unwrapped
from .schedules.schedule import PruningSchedule


def settings_of(runner: Runner) -> Dict[str, str]:
    """Return name -> value, as text, of what decides when channels go, how many and which."""
    found: Dict[str, Any] = {}
    model = unwrapped(runner)
    if isinstance(model, GroupFisherAlgorithm):
        found.update({name: getattr(model, name) for name in ('interval', 'channels_per_event', 'align')})
        found['normalization_type'] = model.mutator.channel_unit_cfg.get('normalization_type', 'act')
    for hook in runner.hooks:
        if isinstance(hook, ResourceInfoHook):
            found.update(target=hook.targets[-1], resource_type=hook.resource_type)
        elif isinstance(hook, PruningSchedule):
            found.update(criterion=hook.criterion_cfg, target=hook.target_cfg)
            found.update({name: getattr(hook, name) for name in ('rounds', 'epochs', 'start', 'epoch_prune', 'interval')
                          if hasattr(hook, name)})
        if getattr(hook, 'repair', None) is not None:
            found['repair'] = hook.repair
        record = getattr(hook, 'record', None)
        if record is not None:
            found['runtime'] = dict(record.runtime)
    return {name: str(value) for name, value in found.items()}


def warn_of_other_settings(runner: Runner, before: Mapping[str, str]) -> None:
    """Log a warning that names every setting that is not as in the run that is resumed.

    Args:
        runner (Runner): Resumed.
        before (dict[str, str]): What :func:`settings_of` returned in that run.
    """
    now = settings_of(runner)
    other = [f'{name} is {now.get(name)}, it was {value}' for name, value in before.items() if now.get(name) != value]
    if other:
        runner.logger.warning(f'the run is resumed with other settings: {"; ".join(other)}. It goes on with the new '
                              'ones, and does not end as the run that was stopped would have')
