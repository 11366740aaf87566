"""A training of another length: the schedule of a config, scaled as a whole."""
from typing import Any, Dict, List, Mapping, NamedTuple

from ...arguments import UserError
from ...config import plain

#: Keys of schedulers and hooks that are a number of epochs or iterations.
LENGTHS = ('begin', 'end', 'T_max', 'total_iters', 'step_size', 'switch_epoch', 'num_last_epochs', 'begin_epoch',
           'begin_iter', 'total_steps')
#: Of these, those that must not become 0.
AT_LEAST_ONE = ('end', 'T_max', 'total_iters', 'step_size', 'total_steps', 'num_last_epochs')


class TrainingLength(NamedTuple):
    """What a config says of how long it trains.

    Attributes:
        param_scheduler (list[dict]): Learning rates and others.
        train_cfg (dict): Epochs or iterations.
        custom_hooks (list[dict]): Some switch their pipeline near the end.
        length (int): Epochs or iterations.
        unit (str): ``epochs`` or ``iterations``.
    """

    param_scheduler: List[Dict[str, Any]]
    train_cfg: Dict[str, Any]
    custom_hooks: List[Dict[str, Any]]
    length: int
    unit: str


def training_length(base: Mapping[str, Any], part: float = 1.0) -> TrainingLength:
    """Return the schedule of a config, scaled to a part of its length.

    Args:
        base (dict): Its ``param_scheduler``, ``train_cfg`` and ``custom_hooks`` are read.
        part (float): Of the length; at least one epoch or iteration stays.

    Raises:
        UserError: The config has no ``train_cfg``.
    """
    loop = plain(base.get('train_cfg') or {})
    key = 'max_iters' if 'max_iters' in loop else 'max_epochs'
    if key not in loop:
        raise UserError('the config has no train_cfg with max_epochs or max_iters, so nothing says how long it trains')
    count = max(1, round(loop[key] * part))
    ratio = count / loop[key]
    schedulers = plain(base.get('param_scheduler') or [])
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    train_cfg = dict(loop, **{key: count})
    for name in ('val_interval', 'val_begin'):
        if name in train_cfg:
            train_cfg[name] = min(count, train_cfg[name]) if name == 'val_interval' else round(train_cfg[name] * ratio)
    if train_cfg.get('dynamic_intervals'):
        train_cfg['dynamic_intervals'] = [(round(begin * ratio), interval)
                                          for begin, interval in train_cfg['dynamic_intervals']]
    return TrainingLength([_scaled(one, ratio) for one in schedulers], train_cfg,
                          [_scaled(one, ratio) for one in plain(base.get('custom_hooks') or [])], count,
                          'iterations' if key == 'max_iters' else 'epochs')


def _scaled(values: Dict[str, Any], ratio: float) -> Dict[str, Any]:
    """Return the arguments of a scheduler or hook with its lengths scaled."""
    found = dict(values)
    for key in LENGTHS:
        if isinstance(found.get(key), int) and not isinstance(found[key], bool):
            found[key] = max(int(key in AT_LEAST_ONE), round(found[key] * ratio))
    if isinstance(found.get('milestones'), (list, tuple)):
        found['milestones'] = sorted({max(1, round(stone * ratio)) for stone in found['milestones']})
    if 'end' in found and 'begin' in found and isinstance(found['end'], int):
        found['end'] = max(found['end'], found['begin'] + 1)
    return found
