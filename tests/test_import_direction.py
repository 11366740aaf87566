"""Imports go one way: a module imports only modules that stand above it here."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmprune'
RANKS = (
    ('version', 'registry', 'files', 'random_state'),
    ('graph',),
    ('units',),
    ('config',),
    ('models',),
    ('deploy', 'group_fisher'),
    ('report',),
    ('criteria',),
    ('pruning',),
    ('engine', 'command_line'),
)
RANK = {module: rank for rank, modules in enumerate(RANKS) for module in modules}
#: Codebases that only mmprune/deploy may know; the rest takes them by name from configs.
CODEBASES = {'mmdet', 'mmpose', 'mmdeploy', 'mmcls', 'mmpretrain', 'mmcv'}
FILES = sorted(path for path in PACKAGE.rglob('*.py') if path.parent.name != '__pycache__')
CORE = [path for path in FILES if path.parent == PACKAGE]


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
    found = {path.stem for path in CORE if path.stem != '__init__'}
    found |= {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').exists()}
    assert sorted(found - {*RANK}) == []


@pytest.mark.parametrize('path', [path for path in FILES if path != PACKAGE / '__init__.py'],
                         ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_lower_ranks(path):
    own = path.relative_to(PACKAGE).parts[0].split('.')[0]
    wrong = sorted(name for name in modules_of(path) - {own} if RANK[name] >= RANK[own])
    assert not wrong, f'{own} imports {wrong}, which stand beside or below it'


def test_package_itself_imports_next_to_nothing():
    assert modules_of(PACKAGE / '__init__.py') == {'version'}


@pytest.mark.parametrize('path', CORE, ids=lambda path: path.stem)
def test_core_knows_no_codebase(path):
    names = {name.split('.')[0] for name in imports_of(path.read_text(encoding='utf-8'))}
    assert sorted(names & CODEBASES) == []


def test_importing_the_core_loads_no_codebase():
    modules = [f'mmprune.{path.stem}' for path in CORE if path.stem != '__init__']
    code = (f'import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n'
            f'print(sorted({CODEBASES!r} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == '[]'
