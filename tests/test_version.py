"""What torch and mmengine are taken, under whatever name they were installed."""
import sys
from importlib import metadata
from types import ModuleType

import pytest

from mmprune import version


def installed(monkeypatch, **versions):
    """Let exactly these distributions be installed."""
    def find(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]
    monkeypatch.setattr(version.metadata, 'version', find)


def module(monkeypatch, name, found):
    fork = ModuleType(name)
    fork.__version__ = found
    monkeypatch.setitem(sys.modules, name, fork)


@pytest.mark.parametrize('torch', ['2.0.1+cu117', '2.13.0+cpu', '2.14.1+cu130', '2.14.0a0+git1'])
def test_what_is_certified_is_taken(monkeypatch, torch):
    installed(monkeypatch, torch=torch, mmengine='0.10.7')
    version.check_versions()


@pytest.mark.parametrize(('torch', 'mmengine', 'message'), [
    ('1.13.1', '0.10.7', 'mmprune needs torch>=2.0,<2.15, but 1.13.1 is installed'),
    ('2.15.0', '0.10.7', 'mmprune needs torch>=2.0,<2.15, but 2.15.0 is installed'),
    ('2.14.1', '0.9.1', 'mmprune needs mmengine>=0.10,<0.11, but 0.9.1 is installed')])
def test_what_is_not_says_what_to_do(monkeypatch, torch, mmengine, message):
    installed(monkeypatch, torch=torch, mmengine=mmengine)
    with pytest.raises(ImportError, match=message) as caught:
        version.check_versions()
    assert 'pip install' in str(caught.value)
    assert 'docs/install.md' in str(caught.value)


def test_forks_are_found_by_their_module(monkeypatch):
    installed(monkeypatch)
    module(monkeypatch, 'torch', '2.14.1')
    module(monkeypatch, 'mmengine', '0.10.12')
    version.check_versions()
    module(monkeypatch, 'mmengine', '0.11.0')
    with pytest.raises(ImportError, match='but 0.11.0 is installed'):
        version.check_versions()


def test_missing(monkeypatch):
    installed(monkeypatch, torch='2.14.1')
    monkeypatch.setitem(sys.modules, 'mmengine', None)
    with pytest.raises(ImportError, match='mmengine>=0.10,<0.11, which is not installed'):
        version.check_versions()
