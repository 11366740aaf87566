"""A share of benchmarks/mutated_files.py, with the small counts of a test; and whether it would find a fault."""
import json
import random
import subprocess
import sys
from collections import Counter

import pytest
from paths import ROOT

from mmprune.models import checkpoint_file, pruning_algorithm

sys.path.insert(0, str(ROOT / 'benchmarks'))
try:
    import mutated_models
finally:
    sys.path.pop(0)

CASES = 300


@pytest.fixture(scope='module')
def subject(tmp_path_factory):
    return mutated_models.Subject(tmp_path_factory.mktemp('mutated'))


def outcomes(subject, kinds, count, monkeypatch, seed=1):
    """Return how often each outcome came, of files of some kinds."""
    monkeypatch.setattr(mutated_models, 'KINDS', kinds)
    cases = [mutated_models.Case(number, random.Random(f'{seed}:{number}'), number % 50 == 0)
             for number in range(count)]
    results = [subject.run(case) for case in cases]
    return Counter(result[2] for result in results), [result for result in results if result[2] not in (
        'loaded', 'refused', 'parity only')]


@pytest.mark.filterwarnings('ignore')
def test_damaged_files_end_in_a_message_or_in_the_model_that_they_say(subject, monkeypatch):
    kinds = [kind for kind in mutated_models.KINDS if kind != 'onnx']  # what onnxruntime takes depends on its version
    counts, faults = outcomes(subject, kinds, CASES, monkeypatch)
    assert faults == []
    assert counts['loaded'] >= 20
    assert counts['refused'] >= 100


@pytest.mark.filterwarnings('ignore')
def test_the_benchmark_finds_what_it_looks_for(subject, monkeypatch):
    """Without checksums a flipped bit is loaded in another value; without the check before the cut, half a model is."""
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_file, 'damage', lambda path: None)
        assert outcomes(subject, ['pruned'], 60, monkeypatch)[0]['wrong'] > 0
    with monkeypatch.context() as patched:
        patched.setattr(pruning_algorithm, 'check_cut_fit', lambda *args: None)
        assert outcomes(subject, ['pruned'], 60, monkeypatch)[0]['changed'] > 0


def test_the_command_runs_its_cases_in_a_child(tmp_path):
    command = [sys.executable, '-W', 'ignore', 'benchmarks/mutated_files.py', '--count', '8', '--rebuild', '4']
    command += ['--json', str(tmp_path / 'counts.json')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads((tmp_path / 'counts.json').read_text())
    assert counts.pop('rebuilt') >= 2
    assert counts.pop('megabytes') < 1024
    assert sum(counts.values()) == 8
    assert '| all | 8 |' in done.stdout
