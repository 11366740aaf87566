"""Imports go one way: a module imports only modules that stand above it here."""
import ast
import subprocess
import sys

import pytest
from paths import ROOT

PACKAGE = ROOT / 'mmprune'
RANKS = (
    ('version', 'arguments', 'random_state'),
    ('registry', 'files'),
    ('graph',),
    ('units',),
    ('config',),
    ('models',),
    ('deploy', 'repair'),
    ('latency',),
    ('group_fisher',),
    ('report', 'command_line'),
    ('criteria',),
    ('pruning',),
    ('integrations',),
    ('engine',),
    ('commands',),
    ('__main__',),
)
RANK = {module: rank for rank, modules in enumerate(RANKS) for module in modules}
#: Codebases that only these may know; the rest takes them by name from configs.
CODEBASES = {'mmdet', 'mmpose', 'mmseg', 'mmdeploy', 'mmcls', 'mmpretrain', 'mmcv', 'timm', 'transformers',
             'ultralytics'}
KNOW_CODEBASES = ('deploy/', 'integrations/', 'commands/deploy.py', 'graph/rules/openmmlab.py')
FILES = sorted(path for path in PACKAGE.rglob('*.py') if not {'__pycache__', '.mim'} & {*path.parts})
CORE = [path for path in FILES if not path.relative_to(PACKAGE).as_posix().startswith(KNOW_CODEBASES)]


def imports_of(source, package=('mmprune',)):
    """Return the absolute dotted names that a source imports, wherever in it; ``importlib.import_module`` too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = [*package[:len(package) - node.level + 1]] if node.level else []
            stem += node.module.split('.') if node.module else []
            # ``from . import ops`` names a module, ``from .ops import Tap`` something in one
            names.update('.'.join([*stem, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
            if function in ('import_module', '__import__'):
                names.add(str(node.args[0].value))
    return names


def codebases_of(path):
    """Return the other codebases that a file imports, wherever in it."""
    return sorted({name.split('.')[0] for name in imports_of(path.read_text(encoding='utf-8'))} & CODEBASES)


def modules_of(path):
    """Return the modules of mmprune directly below it that a file imports."""
    package = ('mmprune', *path.relative_to(PACKAGE).parts[:-1])
    names = imports_of(path.read_text(encoding='utf-8'), package)
    return {name.split('.')[1] for name in names if name.startswith('mmprune.')} - {'__version__'}


def test_imports_are_read_from_every_form():
    source = '''
import torch.nn, mmdet
from . import ops
from .graph import build_graph as build
from ..units.unit import by_name
from mmprune.units.mutator import ChannelMutator
def late():
    from .hooks import unwrapped
    importlib.import_module('mmpose.apis')
'''
    assert imports_of(source, ('mmprune', 'deploy')) == {
        'torch.nn', 'mmdet', 'mmprune.deploy.ops', 'mmprune.deploy.graph.build_graph', 'mmprune.units.unit.by_name',
        'mmprune.units.mutator.ChannelMutator', 'mmprune.deploy.hooks.unwrapped', 'mmpose.apis'}


def test_every_module_has_a_rank():
    found = {path.relative_to(PACKAGE).parts[0].split('.')[0] for path in FILES} - {'__init__'}
    assert found == {*RANK}


@pytest.mark.parametrize('path', [path for path in FILES if path != PACKAGE / '__init__.py'],
                         ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_lower_ranks(path):
    assert not imported_upwards(path, modules_of(path))


def imported_upwards(path, modules):
    """Return what a file of the package imports that stands beside or below it."""
    own = path.relative_to(PACKAGE).parts[0].split('.')[0]
    return sorted(name for name in modules - {own} if RANK[name] >= RANK[own])


def test_an_import_that_runs_up_is_found():
    source = 'def late():\n    from ..engine.hook import ResourceInfoHook\n    from ..units import mutator\n'
    path = PACKAGE / 'graph' / 'coupling.py'
    names = imports_of(source, ('mmprune', 'graph'))
    assert imported_upwards(path, {name.split('.')[1] for name in names}) == ['engine', 'units']


def test_attention_stands_alone():
    """Its modules run in every dense and cut transformer, and need no unit for it."""
    files = [path for path in FILES if PACKAGE / 'units' / 'attention' in path.parents]
    package = ('mmprune', 'units', 'attention')
    names = set().union(*(imports_of(path.read_text(encoding='utf-8'), package) for path in files))
    own = {name for name in names if name.startswith('mmprune.')}
    assert own
    assert not {name for name in own if not name.startswith('mmprune.units.attention.')}


def test_package_itself_imports_next_to_nothing():
    assert modules_of(PACKAGE / '__init__.py') == {'version'}


@pytest.mark.parametrize('path', CORE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_core_knows_no_codebase(path):
    assert codebases_of(path) == []


def test_integrations_load_their_codebase_when_they_are_called():
    for path in (PACKAGE / 'integrations').glob('*.py'):
        assert codebases_of(path) == [], path


def test_importing_the_core_loads_no_codebase():
    modules = ['.'.join(['mmprune', *path.relative_to(PACKAGE).with_suffix('').parts]) for path in CORE
               if path.stem not in ('__init__', '__main__')]
    code = (f'import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n'
            f'print(sorted({CODEBASES!r} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == '[]'
