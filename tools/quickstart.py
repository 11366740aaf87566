"""Train, prune, finetune, test, export and time a small ResNet on digits, with the tools that users type.

python tools/quickstart.py    # bash tools/quickstart.sh sets up the environment first

Every command is printed before it runs and can be run by hand; its output goes to a log file in work_dirs/quickstart.
"""
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NoReturn

import torch
from mmcv import imwrite

from mmprune.deploy.runtimes.onnx_runtime import OnnxRuntime
from mmprune.deploy.timing import Candidate, measure
from mmprune.engine.digits import Digits
from mmprune.files import write_text
from mmprune.report.stages import StageResult, format_stages
from mmprune.report.structure_picture import draw_structure
from mmprune.units.structure import read_structure

ROOT = Path(__file__).resolve().parent.parent
WORK = Path('work_dirs/quickstart')
LOGS = WORK / 'logs'
CONFIGS = 'configs/mmcls/digits'
DENSE = f'{CONFIGS}/resnet-small_digits.py'
PRUNE = f'{CONFIGS}/group_fisher_act_prune_resnet-small_digits.py'
FINETUNE = f'{CONFIGS}/group_fisher_act_finetune_resnet-small_digits.py'
DEPLOY = f'{CONFIGS}/group_fisher_act_deploy_resnet-small_digits.py'
STAGES = ('dense', 'pruned', 'finetuned')
ROUNDS = 300
TAIL = 30


def step(log: str, title: str, *command: str) -> None:
    """Print and run a tool; its output goes to a log, whose tail is shown if the tool fails."""
    print(f'\n{title}\n  $ {shlex.join(("python", *command))}', flush=True)
    path = LOGS / f'{log}.log'
    start = time.monotonic()
    with path.open('w', encoding='utf-8') as file:
        code = subprocess.call([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT)
    if code:
        fail(path, code)
    print(f'  done in {time.monotonic() - start:.0f} s, log: {path}', flush=True)


def fail(path: Path, code: int) -> NoReturn:
    """Show the tail of a log and end."""
    tail = path.read_text(encoding='utf-8', errors='replace').splitlines()[-TAIL:]
    print('\n'.join(['', f'The last lines of {path}:', *(f'  | {line}' for line in tail)]), file=sys.stderr)
    print(f'\nquickstart: that command failed with status {code}', file=sys.stderr)
    sys.exit(code if code > 0 else 1)


def newest(work_dir: Path) -> str:
    """Return the checkpoint that a run wrote last."""
    return os.path.relpath((work_dir / 'last_checkpoint').read_text().strip())


def train_all() -> Dict[str, str]:
    """Run the three trainings; return stage -> checkpoint."""
    step('train', '1. Train the dense model', 'tools/train.py', DENSE, '--work-dir', str(WORK / 'dense'))
    step('prune', '2. Prune it to half of its FLOPs', 'tools/train.py', PRUNE, '--work-dir', str(WORK / 'prune'))
    step('finetune', '3. Finetune the pruned model', 'tools/train.py', FINETUNE, '--work-dir', str(WORK / 'finetune'))
    return {'dense': newest(WORK / 'dense'), 'pruned': str(WORK / 'prune' / 'flops_0.50.pth'),
            'finetuned': newest(WORK / 'finetune')}


def evaluate(checkpoints: Dict[str, str], structures: Dict[str, str]) -> List[StageResult]:
    """Test every stage and count its costs."""
    results = []
    for stage, config in zip(STAGES, (DENSE, PRUNE, FINETUNE)):
        accuracy, cost = WORK / f'{stage}_accuracy.json', WORK / f'{stage}_cost.json'
        step(f'test_{stage}', f'4. Test the {stage} model', 'tools/test.py', config, checkpoints[stage],
             '--work-dir', str(WORK / 'test'), '--json', str(accuracy))
        step(f'cost_{stage}', f'   Count what the {stage} model costs', 'tools/pruning/structure_cost.py', PRUNE,
             *([structures[stage]] if stage in structures else []), '--json', str(cost))
        counted = json.loads(cost.read_text())
        results.append(StageResult(stage, json.loads(accuracy.read_text())['accuracy/top1'], counted['macs'],
                                   counted['params']))
    return results


def export(checkpoints: Dict[str, str], structures: Dict[str, str]) -> Dict[str, Path]:
    """Export every stage to ONNX, checked on a digit; return stage -> file."""
    digit, files = WORK / 'digit.png', {stage: WORK / f'{stage}.onnx' for stage in STAGES}
    imwrite(Digits('test')[0]['img'], str(digit))
    for stage, path in files.items():
        chosen = ['--cfg-options', f'model.fix_subnet={structures[stage]}'] if stage in structures else []
        step(f'export_{stage}', f'5. Export the {stage} model to ONNX', 'tools/export_onnx.py',
             DEPLOY if chosen else DENSE, checkpoints[stage], '--out', str(path), '--image', str(digit), *chosen)
    return files


def time_all(files: Dict[str, Path], results: List[StageResult]) -> None:
    """Time all files in turns and note the medians."""
    print(f'\n6. Time them in onnxruntime: one thread, one image, in turns, median of {ROUNDS} runs', flush=True)
    x = torch.randn((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    timing = measure({stage: Candidate(OnnxRuntime(), path) for stage, path in files.items()}, x, ROUNDS)
    print(timing)
    for result in results:
        result.latency_ms = timing[result.stage].median


def main() -> None:
    os.chdir(ROOT)
    start = time.monotonic()
    for folder in ('dense', 'prune', 'finetune', 'test'):  # of an earlier run
        shutil.rmtree(WORK / folder, ignore_errors=True)
    LOGS.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # a second thread gains little here, and loses much on a busy machine
    os.environ['PYTHONWARNINGS'] = 'ignore'
    checkpoints = train_all()
    structures = {'pruned': str(WORK / 'prune' / 'fix_subnet.json'),
                  'finetuned': str(WORK / 'finetune' / 'fix_subnet.json')}
    results = evaluate(checkpoints, structures)
    time_all(export(checkpoints, structures), results)
    picture = WORK / 'structure.png'
    draw_structure(read_structure(structures['finetuned']), picture,
                   title='A small ResNet on digits, before and after pruning')
    write_text(format_stages(results, markdown=True) + '\n', WORK / 'table.md')
    print(f'\n{format_stages(results)}\n')
    print('Accuracy: top-1 on 397 test images, so one image is 0.25 points. MACs and parameters: of the structure;\n'
          'for deployment its channels are padded with zeros to a multiple of 4, which onnxruntime likes.')
    print(f'Structure before and after: {picture}\nThe table as markdown: {WORK / "table.md"}\n'
          f'Finished in {(time.monotonic() - start) / 60:.1f} minutes without the install.')


if __name__ == '__main__':
    main()
