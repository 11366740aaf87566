"""The plan of a road: written before it begins, and compared where it goes on."""
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Dict, Mapping

from ...arguments import UserError
from ...deploy.machine import cpu_name
from ...report.stage_record import PLAN, CompressPlan, read_plan, write_plan
from ...version import __version__
from .options import CompressOptions

#: Packages whose versions decide what comes out.
PACKAGES = ('torch', 'onnxruntime', 'mmengine', 'onedl-mmengine', 'mmcv', 'mmcls', 'mmpretrain', 'mmdet', 'mmpose',
            'mmsegmentation', 'mmdeploy')
#: Options that are fields of a plan themselves, and its folder.
OWN_FIELDS = ('config', 'checkpoint', 'folder', 'target', 'input_shape')
#: Fields of a plan that may differ where a road goes on.
FREE = ('metric', 'versions', 'machine')


def plan_of(options: CompressOptions, cfg_options: Mapping[str, Any]) -> CompressPlan:
    """Return the plan; the metric is known once the dense network is tested."""
    given = {name: value for name, value in asdict(options).items() if name not in OWN_FIELDS}
    return CompressPlan(options.config, options.checkpoint, dict(options.target), '', list(options.input_shape),
                        dict(given, cfg_options={key: str(value) for key, value in cfg_options.items()}), _versions(),
                        cpu_name())


def remembered(plan: CompressPlan, folder: Path) -> None:
    """Write a plan, unless the folder has it already.

    Raises:
        UserError: The folder has another plan; the message says what differs.
    """
    if not (folder / PLAN).exists():
        write_plan(plan, folder)
        return
    before, now = asdict(read_plan(folder)), asdict(plan)
    before.update(before.pop('options'))
    now.update(now.pop('options'))
    other = [f'{name} was {before[name]!r} and is {now[name]!r}' for name in now
             if name not in FREE and name in before and before[name] != now[name]]  # an earlier version had fewer
    if other:
        raise UserError(f'{folder} holds another compression: {"; ".join(other)}. Take another --work-dir, or remove '
                        'this one')


def _versions() -> Dict[str, str]:
    found = {'mmprune': __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
