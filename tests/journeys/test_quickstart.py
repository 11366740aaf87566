"""The glue of the quickstart: commands are shown, a failure shows the tail of its log and ends with its status."""
import importlib.util

import pytest
from paths import ROOT

TOOL = ROOT / 'tools' / 'quickstart.py'


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location('quickstart', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'LOGS', tmp_path)
    return module


def test_step_shows_the_command_and_keeps_its_output_in_a_log(quickstart, tmp_path, capsys):
    quickstart.step('hello', '1. Say hello', '-c', 'print("hello")')
    shown = capsys.readouterr().out.split('\n')
    assert shown[1:3] == ['1. Say hello', "  $ python -c 'print(\"hello\")'"]
    assert 'done in' in shown[3]
    assert (tmp_path / 'hello.log').read_text() == 'hello\n'


def test_failure_shows_the_tail_of_the_log(quickstart, tmp_path, capsys):
    code = 'for i in range(100): print("line", i)\nraise SystemExit(3)'
    with pytest.raises(SystemExit) as ended:
        quickstart.step('broken', '1. Break', '-c', code)
    assert ended.value.code == 3
    lines = capsys.readouterr().err.split('\n')
    assert [line for line in lines if line.startswith('  | ')] == [f'  | line {i}' for i in range(70, 100)]
    assert lines[-2] == 'quickstart: that command failed with status 3'


def test_configs_of_the_quickstart_are_there(quickstart):
    root = TOOL.parent.parent
    for path in (quickstart.DENSE, quickstart.PRUNE, quickstart.FINETUNE, quickstart.DEPLOY):
        assert (root / path).is_file()
