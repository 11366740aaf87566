"""The console command ``mmprune`` and the thin callers of its sub-commands in tools/."""
import ast
import importlib
import re
import subprocess
import sys

import pytest
from paths import ROOT, TINY

from mmprune import __version__, commands
from mmprune.commands import COMMANDS, main, summary

#: Scripts that are no callers of a sub-command.
OTHER_SCRIPTS = {'quickstart.py'}
#: What OpenMMLab users type -> the sub-command that it is.
SCRIPTS = {
    'train.py': 'train', 'test.py': 'test', 'export_onnx.py': 'export', 'deploy.py': 'deploy',
    'test_deployed.py': 'test-deployed', 'compress.py': 'compress', 'report.py': 'report',
    'find_divisor.py': 'divisor', 'pruning/latency_table.py': 'latency',
    'pruning/latency_pack.py': 'latency-pack', 'pruning/show_units.py': 'units', 'pruning/structure_cost.py': 'cost',
    'pruning/verify.py': 'verify', 'pruning/repair.py': 'repair', 'pruning/draw_structure.py': 'draw-structure',
    'pruning/forecast_structure.py': 'forecast-structure', 'pruning/write_schema.py': 'slimming-schema',
    'model_converters/from_mmrazor.py': 'convert-mmrazor',
    'model_converters/from_torchvision.py': 'convert-torchvision'}


def error_of(capsys, *argv):
    """Run a command that must end with status 2; return what it wrote to stderr."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_every_script_is_a_sub_command_and_the_other_way_round():
    scripts = {path.relative_to(ROOT / 'tools').as_posix() for path in (ROOT / 'tools').rglob('*.py')}
    assert scripts - OTHER_SCRIPTS == {*SCRIPTS}
    assert {*SCRIPTS.values()} == {*COMMANDS}
    modules = {path.stem for path in (ROOT / 'mmprune/commands').glob('*.py')} - {'__init__'}
    assert modules == {*COMMANDS.values()}


@pytest.mark.parametrize(('script', 'name'), SCRIPTS.items())
def test_script_is_a_thin_caller_and_help_shows_both(script, name):
    tree = ast.parse((ROOT / 'tools' / script).read_text(encoding='utf-8'))
    imported = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert imported == ['mmprune.command_line', f'mmprune.commands.{COMMANDS[name]}']
    assert [type(node) for node in tree.body] == [ast.Expr, ast.ImportFrom, ast.ImportFrom, ast.If]
    usage = ast.get_docstring(ast.parse((ROOT / f'mmprune/commands/{COMMANDS[name]}.py').read_text(encoding='utf-8')))
    assert re.search(rf'^mmprune {name} \S', usage, re.M)
    assert re.search(rf'^python tools/{script} \S', usage, re.M)


def test_help_lists_every_sub_command_and_imports_none_of_them():
    code = ("import sys; from mmprune.commands import main; main(['--help']); "
            "print(sorted(name for name in ('torch', 'mmengine', 'numpy') if name in sys.modules))")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT)
    *lines, loaded = done.stdout.splitlines()
    assert loaded == '[]'
    listed = dict(line.split(None, 1) for line in lines if line.startswith('  '))
    assert listed == {name: summary(name) for name in COMMANDS}
    assert all(0 < len(text) <= 120 for text in listed.values())


def test_version(capsys):
    main(['--version'])
    assert capsys.readouterr().out == f'mmprune {__version__}\n'


def test_unknown_sub_command_gets_one_line_with_the_nearest(capsys):
    assert error_of(capsys, 'unit', 'x.py') == ("error: 'unit' is no command of mmprune, did you mean 'units'?; "
                                               'mmprune --help lists them\n')
    assert error_of(capsys).splitlines()[-1] == 'error: which command? mmprune --help lists them'


@pytest.mark.parametrize('config', ['nowhere.py', 'nowhere::a/b.py', 'mmcls::nowhere/b.py', 'mmcls::b.py'])
def test_mistake_ends_with_one_line(config, capsys):
    error = error_of(capsys, 'cost', config)
    assert error.startswith('error: ')
    assert len(error.splitlines()) == 1


def test_option_of_a_sub_command_is_refused_in_its_name(capsys):
    assert error_of(capsys, 'verify', 'x.py', '--ratio', '2') == (
        "mmprune verify: error: argument --ratio: '2' is no number between 0 and 1\n")


def test_sub_command_does_what_its_script_does(capsys):
    arguments = [str(TINY), '--input-shape', '1', '3', '16', '16']
    main(['cost', *arguments])
    done = subprocess.run([sys.executable, '-W', 'ignore', 'tools/pruning/structure_cost.py', *arguments], cwd=ROOT,
                          capture_output=True, text=True, check=True)
    assert capsys.readouterr().out == done.stdout
    assert 'multiply-adds' in done.stdout


def test_deploy_without_mmdeploy_says_what_to_install(monkeypatch):
    for name in {'mmdeploy', 'mmdeploy.apis', *(name for name in sys.modules if name.startswith('mmdeploy.'))}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(commands, 'deploy', raising=False)
    monkeypatch.delitem(sys.modules, 'mmprune.commands.deploy', raising=False)
    with pytest.raises(SystemExit, match=r'^error: tools/deploy\.py needs mmdeploy, which cannot be imported'):
        main(['deploy', 'deploy.py', 'model.py', 'x.pth', 'x.jpg', '--work-dir', 'out'])
    del sys.modules['mmprune.commands.deploy']  # for good: monkeypatch would put it back, without mmdeploy
    assert 'mmprune.commands.deploy' not in sys.modules


def test_no_sub_command_loads_another():
    modules = {f'mmprune.commands.{module}' for module in COMMANDS.values()}
    for name in modules - {'mmprune.commands.deploy'}:
        importlib.import_module(name)
        tree = ast.parse((ROOT / f'{name.replace(".", "/")}.py').read_text(encoding='utf-8'))
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
        assert not names, f'{name} imports {names}'
