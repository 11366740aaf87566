"""What `mmprune compress` takes over its own commands typed by hand.

python benchmarks/compress_by_hand.py CONFIG CHECKPOINT --work-dir W
python benchmarks/compress_by_hand.py CONFIG CHECKPOINT --work-dir W --rounds 3 -- --target flops=0.5 --finetune 0.2

What stands behind `--` goes to compress. A round is the command in a clean folder, then the commands that its records
name, and the report, one after the other in another folder with the same configs. The ratio of each round is printed,
and their median, of the time and of the seconds that processors worked, which others beside it change less. Nothing
else may run beside it.
"""
import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import List, NamedTuple, Sequence

from mmprune.command_line import run
from mmprune.report.page import profile, stays
from mmprune.report.stage_record import read_records

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ['--target', 'flops=0.5', '--finetune', '0.2']
CONFIGS = 'configs'


class Seconds(NamedTuple):
    """What commands took."""

    wall: float
    processor: float  #: user and system, of all of their processes

    @classmethod
    def now(cls) -> 'Seconds':
        """Return the clock, and what processes that have ended took."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.monotonic(), used.ru_utime + used.ru_stime)


def seconds_of(commands: Sequence[Sequence[str]], log: Path) -> Seconds:
    """Run commands one after the other; return the seconds."""
    began = Seconds.now()
    with log.open('w') as sink:
        for command in commands:
            if subprocess.call([sys.executable, '-m', *command], cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT,
                               env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))):
                sys.exit(f'{" ".join(command)} failed; its log: {log}')
    return Seconds(*(after - before for after, before in zip(Seconds.now(), began)))


def by_hand(whole: Path, folder: Path) -> List[List[str]]:
    """Return the commands that a road has run, for another folder; their configs are written there."""
    places = [(str(whole), str(folder)), (os.path.relpath(whole, ROOT), os.path.relpath(folder, ROOT))]

    def moved(text: str) -> str:
        for old, new in places:
            text = text.replace(old, new)
        return text

    shutil.copytree(whole / CONFIGS, folder / CONFIGS)
    for path in (folder / CONFIGS).rglob('*.py'):
        path.write_text(moved(path.read_text()))
    records = read_records(whole)
    for stage in records:
        (folder / stage).mkdir(exist_ok=True)
    return [[moved(word) for word in command] for record in records.values() for command in record.commands]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--rounds', type=int, default=1)
    place = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:place])
    options = sys.argv[place + 1:] or DEFAULT
    ratios: List[Seconds] = []
    for number in range(args.rounds):
        whole, hand = (args.work_dir.resolve() / f'{name}_{number}' for name in ('compress', 'by_hand'))
        for folder in (whole, hand):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        one = seconds_of([['mmprune', 'compress', args.config, args.checkpoint, '--work-dir', str(whole), *options]],
                         whole.with_suffix('.log'))
        for kept in (stays.KEPT, profile.KEPT):
            (whole / kept).unlink(missing_ok=True)  # the report traces and measures as that of compress did
        report = ['mmprune', 'report', str(whole)]  # of a folder with records
        other = seconds_of([*by_hand(whole, hand), report], hand.with_suffix('.log'))
        ratios.append(Seconds(one.wall / other.wall, one.processor / other.processor))
        print(f'compress {one.wall:.1f} s ({one.processor:.1f} of processors), by hand {other.wall:.1f} s '
              f'({other.processor:.1f}): {ratios[-1].wall:.3f} ({ratios[-1].processor:.3f})', flush=True)
    print(f'median of {args.rounds}: {statistics.median(one.wall for one in ratios):.3f} '
          f'({statistics.median(one.processor for one in ratios):.3f})')


if __name__ == '__main__':
    run(main)
