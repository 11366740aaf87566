"""Kill `mmprune compress` at a random moment of every stage, run it again, and compare with one that was never killed.

python benchmarks/kill_compress.py CONFIG CHECKPOINT --work-dir W
python benchmarks/kill_compress.py CONFIG CHECKPOINT --work-dir W --kills 3 -- --target latency=0.6 --finetune 0.2
python benchmarks/kill_compress.py CONFIG CHECKPOINT --work-dir W --stages prune --seed 1    # W/killed removed before

What stands behind `--` goes to compress. The second run is given what the first one measured for its target, for times
never repeat. In the end checkpoints must be equal bit for bit, with the optimizer, and structures and accuracies equal;
a further run must measure nothing again, and write the same report but for dates.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict

import torch

from mmprune.command_line import run
from mmprune.engine.compress.survey import SURVEY
from mmprune.engine.latency_record import LATENCY_JSON
from mmprune.graph.nested import output_tensors
from mmprune.report.stage_record import read_records

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ['--target', 'latency=0.6', '--finetune', '0.2']
#: What a record holds that is measured anew in each folder.
MEASURED = ('times', 'images_per_second')


class Compressing:
    """`mmprune compress` in a folder.

    Args:
        args (Namespace): Of the command line.
        folder (Path): Its work dir.
    """

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.folder = folder
        self.command = [sys.executable, '-m', 'mmprune', 'compress', args.config, args.checkpoint, '--work-dir',
                        str(folder), *(args.options or DEFAULT)]

    def start(self) -> 'subprocess.Popen[bytes]':
        """Start it, or let it go on."""
        with open(self.folder.parent / f'{self.folder.name}.log', 'a') as log:
            return subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                                    env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT)))

    def finish(self) -> float:
        """Let it come to its end; return the seconds."""
        began = time.monotonic()
        if self.start().wait():
            sys.exit(f'compress failed; the end of its log:\n'
                     f'{(self.folder.parent / f"{self.folder.name}.log").read_text()[-3000:]}')
        return time.monotonic() - began

    def kill_in(self, stage: str, after: float) -> bool:
        """Go on until a stage has run for some seconds, then kill; tell whether the stage was still at work."""
        process = self.start()
        log = self.folder / 'logs' / f'{stage}.log'
        size = log.stat().st_size if log.exists() else -1
        while process.poll() is None and (log.stat().st_size if log.exists() else -1) <= size:
            time.sleep(0.02)
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
        return not (self.folder / 'stages' / f'{stage}.json').exists()


def same_checkpoint(first: Path, second: Path) -> bool:
    """Tell whether weights and optimizers of two checkpoints are equal bit for bit."""
    states = [torch.load(path, weights_only=False) for path in (first, second)]  # written by this script's runs
    pairs = [[output_tensors(state.get(key, {})) for state in states] for key in ('state_dict', 'optimizer')]
    return all(len(one) == len(other) and all(map(torch.equal, one, other)) for one, other in pairs)


def compared(whole: Path, killed: Path) -> Dict[str, bool]:
    """Return what is equal in two folders."""
    records = [read_records(folder) for folder in (whole, killed)]
    found = {}
    for stage in records[0]:
        results = [{key: value for key, value in each[stage].result.items() if key not in MEASURED}
                   for each in records]
        if stage in ('prune', 'finetune'):
            found[f'{stage}: checkpoint'] = same_checkpoint(*(
                folder / result['checkpoint'] for folder, result in zip((whole, killed), results)))
        if stage == 'int8':  # which format is faster is measured
            results = [{key: result[key] for key in ('left_in_float', 'float_metrics')} for result in results]
        found[f'{stage}: what is not measured'] = json.dumps(results[0], sort_keys=True) == json.dumps(
            results[1], sort_keys=True)
    return found


def seconds_of(whole: Path) -> Dict[str, float]:
    """Return stage -> how long it takes a road that is given what another has measured for its target."""
    seconds = {stage: record.seconds for stage, record in read_records(whole).items()}
    table = whole / 'prune' / LATENCY_JSON
    if table.exists():  # measured from the end of the stage before
        seconds['prune'] -= table.stat().st_mtime - (whole / 'stages' / 'dense.json').stat().st_mtime
    return seconds


def undated(text: str) -> str:
    """Return a report without dates and the time of day."""
    return re.sub(r'\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?)?', 'DATE', text)


def again_the_same(one: Compressing) -> Dict[str, bool]:
    """Run a finished road once more; return whether it measured nothing and wrote the same report."""
    files = [*(one.folder / 'stages').glob('*.json')]
    before, report = [path.read_text() for path in files], undated((one.folder / 'report.html').read_text())
    one.finish()
    return {'run again: records as before': before == [path.read_text() for path in files],
            'run again: report as before': report == undated((one.folder / 'report.html').read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--kills', type=int, default=1, help='in each stage (1)')
    parser.add_argument('--stages', nargs='+', metavar='STAGE', help='in which it is killed (all)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    place = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:place])
    args.options = sys.argv[place + 1:]
    args.work_dir = args.work_dir.resolve()
    whole, killed = (Compressing(args, args.work_dir / name) for name in ('whole', 'killed'))
    for one in (whole, killed):
        one.folder.mkdir(parents=True, exist_ok=True)
    print(f'in peace: {whole.finish():.0f} s', flush=True)
    (killed.folder / 'prune').mkdir(exist_ok=True)
    for name in (SURVEY, f'prune/{LATENCY_JSON}'):
        if (whole.folder / name).exists():
            shutil.copy2(whole.folder / name, killed.folder / name)
    rng = random.Random(args.seed)
    for stage, seconds in seconds_of(whole.folder).items():
        for _ in range(args.kills if stage in (args.stages or [stage]) else 0):
            after = rng.uniform(0, seconds)
            hit = killed.kill_in(stage, after)
            print(f'{stage}: killed after {after:.1f} of about {seconds:.1f} s'
                  f'{"" if hit else ", just after its end"}', flush=True)
    killed.finish()
    found = {**compared(whole.folder, killed.folder), **again_the_same(killed)}
    print('\n'.join(f'{name}: {"equal" if equal else "DIFFERENT"}' for name, equal in found.items()))
    if not all(found.values()):
        sys.exit('a road that was killed ended otherwise than one that was not')


if __name__ == '__main__':
    run(main)
