"""The scripts of benchmarks/: what they import from the package and from one another is there."""
import ast
import importlib
import importlib.util

import pytest
from paths import ROOT

from mmprune.arguments import MissingPackageError

SCRIPTS = {path.stem: path for path in sorted((ROOT / 'benchmarks').glob('*.py'))}


def imported(path):
    """Yield module and name of all ``from module import name`` of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)


def names_of(path):
    """Return the names that a file binds at its top level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(alias.asname or alias.name.partition('.')[0] for alias in node.names)
        found.update(name.id for name in ast.walk(node) if isinstance(name, ast.Name)
                     and isinstance(name.ctx, ast.Store))
    return found


@pytest.mark.parametrize('script', SCRIPTS)
def test_what_it_imports_is_there(script):
    for module, name in imported(SCRIPTS[script]):
        if module.partition('.')[0] == 'mmprune':
            where = f'{script}.py takes {name} from {module}'
            try:
                found = importlib.import_module(module)
            except MissingPackageError:
                continue  # of an environment that has more packages
            is_module = hasattr(found, '__path__') and importlib.util.find_spec(f'{module}.{name}') is not None
            assert hasattr(found, name) or is_module, where
        elif module in SCRIPTS:
            assert name in names_of(SCRIPTS[module]), f'{script}.py takes {name} from {module}.py'
