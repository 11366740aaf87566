"""Spoil structures, checkpoints, configs and ONNX files, and see what loading them does.

python benchmarks/mutated_files.py --count 100000
python benchmarks/mutated_files.py --seed 3 --first 1700 --count 100 --verbose
python benchmarks/mutated_files.py --first 1742 --count 1 --keep spoiled    # one of them again; the file stays

Each case is drawn from the seed and its number: a file of a small network that was pruned, with other bits, cut off,
with other names and values, or of another model (`file_mutations.py`). It is loaded by the package's own readers into
the network, traced once; every hundredth, and every config, builds the whole model anew. That must end in a model equal
to what `file_readings.py`, which knows neither mmprune nor torch, reads in the file; or in one message that names the
file (a config: what is wrong in it), with the model as it was before. All else is a fault: a model that differs
(wrong), a traceback, a hang, a crash, more memory than --memory, a message that names no file (unnamed), a model half
loaded (changed), and a refusal of what can be read (needless). Faults are printed, and the status is then 1.
"""
import argparse
import json
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

FAULTS = ('wrong', 'traceback', 'unnamed', 'changed', 'needless', 'hang', 'crash')
SECONDS = 60.0  # without a word, after which a child hangs


def child(args: argparse.Namespace) -> None:
    """Load the files of some cases; print a json line before and after each."""
    import mutated_models  # torch and mmprune: the parent needs neither

    with tempfile.TemporaryDirectory() as folder:
        subject = mutated_models.Subject(Path(folder))
        limit = _virtual_memory() + (args.memory << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        for number in range(args.first, args.first + args.count):
            _say(args.child, number)
            case = mutated_models.Case(number, random.Random(f'{args.seed}:{number}'), number % args.rebuild == 0)
            kind, how, outcome, message = subject.run(case)
            if args.keep:
                Path(args.keep).write_bytes(subject.path.read_bytes())
            _say(args.child, [kind, how, outcome, message, case.rebuilt])
        _say(args.child, dict(megabytes=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) - resident))


def _virtual_memory() -> int:
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    return pages * resource.getpagesize()


def _say(pipe: int, value: Any) -> None:
    os.write(pipe, json.dumps(value).encode() + b'\n')


def lines_of(pipe: int, seconds: float) -> Iterator[Optional[bytes]]:
    """Yield what a child writes, line by line; None if it is silent for so long, and then no more."""
    rest = b''
    while select.select([pipe], [], [], seconds)[0]:
        read = os.read(pipe, 1 << 16)
        if not read:
            return
        *lines, rest = (rest + read).split(b'\n')
        yield from lines
    yield None


def run_cases(args: argparse.Namespace, first: int, count: int) -> Iterator[Tuple[int, List[Any]]]:
    """Yield the number and the result of each case; a child that dies or hangs is followed by another one."""
    while count > 0:
        reading, writing = os.pipe()
        command = [sys.executable, '-W', 'ignore', __file__, '--child', str(writing), '--first', str(first), '--count',
                   str(count)]
        for name in ('seed', 'memory', 'rebuild', 'keep'):
            command += [f'--{name}', str(getattr(args, name))] if getattr(args, name) is not None else []
        quiet = None if args.verbose else subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=quiet, stderr=quiet, pass_fds=[writing])
        os.close(writing)
        number, done, silent = -1, False, False
        for line in lines_of(reading, SECONDS):
            silent = line is None
            value = json.loads(line) if line else None
            if isinstance(value, int):
                number = value
            elif isinstance(value, list):
                yield number, value
                first, count = number + 1, first + count - number - 1
            elif isinstance(value, dict):
                done = True
                yield -1, [value['megabytes']]
        os.close(reading)
        process.kill()
        status = process.wait()
        if number < 0:
            sys.exit('the child died before its first case: see --verbose')
        if not done:
            yield number, ['?', '?', 'hang' if silent else 'crash', f'status {status}', False]
            first, count = number + 1, first + count - number - 1


def report(results: 'Counter[Tuple[str, str]]', rebuilt: int, megabytes: int) -> str:
    """Return a table of outcomes by kind."""
    kinds = sorted({kind for kind, _ in results})
    outcomes = ['loaded', 'parity only', 'refused', *FAULTS]
    rows = [f'| files | cases | {" | ".join(outcomes)} |', '| --- |' + ' ---: |' * (len(outcomes) + 1)]
    for kind in [*kinds, 'all']:
        counts = [sum(count for (own, outcome), count in results.items() if kind in (own, 'all') and outcome == one)
                  for one in outcomes]
        rows.append(f'| {kind} | {sum(counts)} | {" | ".join(map(str, counts))} |')
    return '\n'.join([*rows, f'{rebuilt} of them built the whole model; at most {megabytes} MB more than before the '
                      'first case'])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=1000, help='cases (1000)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0, help='number of the first case (0)')
    parser.add_argument('--rebuild', type=int, default=100, help='every so many cases build the whole model (100)')
    parser.add_argument('--memory', type=int, default=1024, help='MB that the cases of a child may take (1024)')
    parser.add_argument('--keep', help='where the file of the last case is written')
    parser.add_argument('--json', help='file for the counts')
    parser.add_argument('--verbose', action='store_true', help='show what the child writes to stderr')
    parser.add_argument('--child', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args)
        return
    results: Counter[Tuple[str, str]] = Counter()
    rebuilt = megabytes = 0
    began = time.monotonic()
    chunk = 5000  # a fresh child now and then
    for start in range(args.first, args.first + args.count, chunk):
        for number, result in run_cases(args, start, min(chunk, args.first + args.count - start)):
            if len(result) == 1:
                megabytes = max(megabytes, result[0])
                continue
            kind, how, outcome, message, whole = result
            results[kind, outcome] += 1
            rebuilt += whole
            if outcome in FAULTS or args.count == 1:
                print(f'{number}: {kind}, {how}: {outcome.upper()} {message}', flush=True)
        print(f'{sum(results.values())} cases, {time.monotonic() - began:.0f} s', file=sys.stderr, flush=True)
        if args.json:
            counts: Dict[str, int] = {': '.join(key): count for key, count in sorted(results.items())}
            Path(args.json).write_text(json.dumps(dict(counts, rebuilt=rebuilt, megabytes=megabytes), indent=2) + '\n')
    print(report(results, rebuilt, megabytes))
    if any(outcome in FAULTS for _, outcome in results):
        sys.exit(1)


if __name__ == '__main__':
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    main()
