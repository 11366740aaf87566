"""One table of all networks that the configs prune: costs dense and pruned, accuracies, and what is typed.

python benchmarks/model_zoo.py                                   # counts what is not counted yet
python benchmarks/model_zoo.py --markdown docs/model_zoo.md      # and writes the page

Costs are counted on the network of each prune config. What is left of it is that of the structure that its deploy
config names, that of a forecast where the target takes a share of each unit, and else what the target asks for.
Accuracies are those of the metafiles; those of dense networks that others have trained, of their metafiles. Counts are
lines of a json file, so that networks of mmcls can be counted in the light environment and all others in the full one.
"""
import argparse
import datetime
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import yaml
from mmengine.registry import init_default_scope
from mmengine.utils import get_installed_path, is_installed

from mmprune.arguments import UserError
from mmprune.command_line import run
from mmprune.config import plain
from mmprune.engine.forecast import forecast, schedule_of
from mmprune.engine.schedules.schedule import PruningSchedule
from mmprune.files import write_text
from mmprune.models.from_config import mutator_from_config, read_config
from mmprune.registry import MODELS
from mmprune.units.structure import read_structure

ROOT = Path(__file__).resolve().parents[1]
STAGES = ('prune', 'finetune', 'deploy')
TASKS = {'mmcls': 'Classification', 'mmpretrain': 'Classification, transformers', 'mmdet': 'Detection',
         'mmpose': 'Pose estimation', 'mmseg': 'Segmentation'}
CITED = 'Results Published By'
#: Where a structure comes from that is of no run.
FORECAST, ALIKE = 'forecast', 'all alike'
HEAD = ('| network | by | multiply-adds (G) | parameters (M) | multiply-adds left | parameters left | dense | pruned | '
        'finetuned |', '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |')

INTRODUCTION = """# All networks that the configs prune

`python benchmarks/model_zoo.py --markdown docs/model_zoo.md`, {date}.

Multiply-adds of one image of the size that the config prunes for, counted here. What is left is that of a structure
that was published or measured, of a forecast where the target takes a share of each unit, of one that narrows all units
alike, which is of no run, or what the target asks for, where only a run can tell. Accuracies are top-1, AP or mean IoU.
Those with † are what the publisher of the config or structure says, not repeated here; those without were measured
here, on the data of [results.md](results.md). Where a cell is empty, nobody has measured it.

A network is pruned, finetuned, tested and deployed by its configs, which lie side by side:

```bash
mmprune train PRUNE_CONFIG
mmprune train FINETUNE_CONFIG
mmprune test FINETUNE_CONFIG CHECKPOINT
mmprune deploy DEPLOY_CONFIG CHECKPOINT
```

or by one command from the config that it was trained with: `mmprune compress CONFIG CHECKPOINT --target flops=0.5`"""


class Road(NamedTuple):
    """A network and how it is pruned.

    Attributes:
        package (str): Folder of the configs.
        base (str): ``_base_`` of the prune config.
        entries (dict[str, dict]): Stage -> entry of the metafile.
    """

    package: str
    base: str
    entries: Dict[str, Dict[str, Any]]

    @property
    def config(self) -> str:
        """Path of the prune config."""
        return str(self.entries['prune']['Config'])


@lru_cache(maxsize=None)
def metafile_entries(root: Path) -> List[Dict[str, Any]]:
    """Return the entries of all metafiles that an index names."""
    index = yaml.safe_load((root / 'model-index.yml').read_text())
    return [entry for path in index['Import'] for entry in yaml.safe_load((root / path).read_text())['Models']]


def roads() -> List[Road]:
    """Return all roads, in the order of the metafiles."""
    entries = {entry['Name']: entry for entry in metafile_entries(ROOT)}
    found = []
    for name, entry in entries.items():
        if '_prune_' not in name:
            continue
        base = re.search(r"^_base_ = '(.+)'$", (ROOT / entry['Config']).read_text(), re.MULTILINE)
        assert base is not None, name
        siblings = {stage: name.replace('_prune_', f'_{stage}_') for stage in STAGES}
        found.append(Road(entry['Config'].split('/')[1], base[1], {
            stage: entries[other] for stage, other in siblings.items() if other in entries}))
    return found


def result_of(entry: Optional[Dict[str, Any]]) -> str:
    """Return the first metric of an entry, cited or not, as a cell."""
    results = (entry or {}).get('Results') or {}
    first = results[0] if isinstance(results, list) else results
    if not entry or not first.get('Metrics'):
        return ''
    metrics = {key: value for key, value in first['Metrics'].items() if isinstance(value, (int, float))}
    value = next(iter(metrics.values()), None)
    mark = '†' if CITED in entry.get('Metadata', {}) else ''
    return '' if value is None else f'{100 * value if value < 1 else value:.4g}{mark}'


def dense_result(road: Road) -> str:
    """Return the accuracy of the dense network: ours, or that of the package that has its config."""
    if '::' not in road.base:
        name = Path(road.base).stem
        return result_of(next((entry for entry in metafile_entries(ROOT) if entry['Name'] == name), None))
    package, _, config = road.base.partition('::')
    if not is_installed(package):
        return ''
    there = Path(get_installed_path(package)) / '.mim'
    entry = next((entry for entry in metafile_entries(there) if entry.get('Config') == f'configs/{config}'), None)
    cell = result_of(entry)
    return f'{cell}†' if cell else ''


def left_by_target(cfg: Any) -> Tuple[Optional[Dict[str, int]], str]:
    """Return the structure that a schedule is going to leave, or what a target asks for."""
    hook = next(hook for hook in cfg.custom_hooks if str(hook['type']).startswith('mmprune.') and (
        'target' in hook or 'save_ckpt_thr' in hook or 'rate_norm' in hook))
    if 'save_ckpt_thr' in hook:
        return None, f'{min(hook["save_ckpt_thr"]):.0%} of {hook.get("resource_type", "flops")} asked'
    schedule: PruningSchedule = schedule_of(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = plain(cfg.model)
    model['architecture'].pop('init_cfg', None)
    try:
        return forecast(schedule, MODELS.build(model)), FORECAST
    except UserError:
        target = schedule.target
        name = target.given[0]
        return None, (f'{target.ratio:.0%} of channels go' if target.ratio is not None else
                      f'{getattr(target, name):.0%} of {name} asked')


def counted(road: Road) -> Dict[str, Any]:
    """Return the costs of a network, dense and pruned."""
    cfg = read_config(str(ROOT / road.config))
    mutator, _ = mutator_from_config(str(ROOT / road.config))
    dense, left, structure = mutator.cost, None, None
    deploy = road.entries.get('deploy', {})
    figures = deploy.get('Metadata', {})
    if 'FLOPs' in figures:
        cited = 'Structure Published By' in figures
        named = read_config(str(ROOT / deploy['Config'])).fix_subnet
        known = not isinstance(named, str) or Path(named).exists()
        alike = isinstance(named, str) and Path(named).name.startswith('even_')  # of no run
        how = 'published' if cited else ALIKE if alike else 'measured'
        structure = read_structure(named) if known else None
        left = dict(macs=figures['FLOPs'], params=figures['Parameters'])
    else:
        structure, how = left_by_target(cfg)
    if structure is not None:
        mutator.apply_structure(structure)
        left = mutator.cost
    return dict(name=road.config, dense=dense, left=left, how=how, input=list(mutator.demo_input.input_shape))


def row(road: Road, count: Dict[str, Any]) -> str:
    """Return the row of a road."""
    dense, left = count['dense'], count['left']
    shares = [count['how'], ''] if left is None else [f'{left[name] / dense[name]:.1%}' for name in ('macs', 'params')]
    if left is not None and count['how'] in (FORECAST, ALIKE):
        shares = [f'{share}, {count["how"]}' for share in shares]
    name = Path(road.base.rpartition('::')[2]).stem
    cells = [f'[{name}](../{road.config})', road.entries['prune']['In Collection'], f'{dense["macs"] / 1e9:.3g}',
             f'{dense["params"] / 1e6:.3g}', *shares, dense_result(road),
             *(result_of(road.entries.get(stage)) for stage in ('prune', 'finetune'))]
    return f'| {" | ".join(cells)} |'


def page(counts: Dict[str, Dict[str, Any]]) -> str:
    """Return the page."""
    lines = [INTRODUCTION.format(date=datetime.date.today().isoformat())]
    for package, task in TASKS.items():
        rows = [row(road, counts[road.config]) for road in roads()
                if road.package == package and road.config in counts]
        lines += ['', f'## {task}', '', *HEAD, *rows] if rows else []
    return '\n'.join([*lines, ''])


def read_counts(path: Path) -> Dict[str, Dict[str, Any]]:
    """Return config -> its count, of the results file."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {count['name']: count for count in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--results', type=Path, default=ROOT / 'work_dirs' / 'model_zoo.jsonl')
    parser.add_argument('--markdown', metavar='FILE', help='write the page')
    args = parser.parse_args()
    args.results.parent.mkdir(parents=True, exist_ok=True)
    for road in roads():
        package = road.package if '::' not in road.base else road.base.partition('::')[0]
        if road.config in read_counts(args.results) or not is_installed(package):
            continue
        count = counted(road)
        with open(args.results, 'a') as file:
            file.write(json.dumps(count) + '\n')
        print(row(road, count), flush=True)
    if args.markdown:
        write_text(page(read_counts(args.results)), args.markdown)


if __name__ == '__main__':
    run(main)
