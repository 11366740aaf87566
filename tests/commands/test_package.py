"""The package as installed: its metadata, and configs and tools in mmprune/.mim."""
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
import yaml
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config
from paths import CONFIGS, ROOT

from mmprune import registry, version
from mmprune.commands import main
from mmprune.models.from_config import read_config

PRUNE = 'mmcls/group_fisher/resnet50/group_fisher_act_prune_resnet50_8xb32_in1k.py'
DIGITS = 'mmcls/digits/group_fisher_act_prune_resnet-small_digits.py'
LINKED = ('configs', 'tools', 'model-index.yml')
#: Figures that others published; everything else in a metafile was counted or measured here.
PUBLISHED = ('Structure Published By', 'Results Published By')
INDEX = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
METAFILES = {path: yaml.safe_load((ROOT / path).read_text()) for path in INDEX}
ENTRIES = [entry for metafile in METAFILES.values() for entry in metafile['Models']]


# metafiles


def test_index_names_every_metafile():
    assert sorted(INDEX) == sorted(path.relative_to(ROOT).as_posix() for path in CONFIGS.rglob('metafile.yml'))


def test_metafiles_name_every_config_once():
    configs = [path.relative_to(ROOT).as_posix() for folder in ('mmcls', 'mmpretrain', 'mmdet', 'mmpose', 'mmseg')
               for path in (CONFIGS / folder).rglob('*.py')]
    assert sorted(entry['Config'] for entry in ENTRIES) == sorted(configs)
    assert len({entry['Name'] for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize('path', INDEX)
def test_metafile_is_whole(path):
    collections = {collection['Name'] for collection in METAFILES[path]['Collections']}
    entries = METAFILES[path]['Models']
    assert {entry['In Collection'] for entry in entries} == collections
    for entry in entries:
        assert entry['Name'] == os.path.splitext(os.path.basename(entry['Config']))[0]
        figures = {key: entry.get('Metadata', {}).get(key) for key in ('FLOPs', 'Parameters')}
        assert all(isinstance(value, int) and value > 0 for value in figures.values() if value is not None)
        assert set(entry.get('Metadata', {})) <= {*figures, *PUBLISHED}
        for result in entry.get('Results', []):
            assert {*result} == {'Task', 'Dataset', 'Metrics'}
            assert all(0 < value < 100 for value in result['Metrics'].values())


def test_results_are_those_of_the_pages():
    pages = (ROOT / 'docs/results.md').read_text() + (ROOT / 'README.md').read_text()
    for entry in ENTRIES:
        for result in entry.get('Results', []):
            for value in result['Metrics'].values():
                shown = {f'{value:.1f}', f'{value:.2f}'} if round(value, 1) == value else {f'{value:.2f}'}
                assert shown & {*re.findall(r'\d+\.\d+', pages)}, f'{entry["Name"]}: {value}'
        if 'in1k' in entry['Name'] and entry.get('Results'):
            assert 'mmrazor' in entry['Metadata']['Results Published By']


def test_the_table_of_networks_has_every_prune_config():
    rows = re.findall(r'^\| \[.+\]\(\.\./(configs/.+?)\) \|.* \| (.*) \| (.*) \| (.*) \|$',
                      (ROOT / 'docs/model_zoo.md').read_text(), re.MULTILINE)
    pruned = {entry['Config']: entry for entry in ENTRIES if '_prune_' in entry['Name']}
    assert [config for config, *_ in rows if config in pruned] == [config for config, *_ in rows]
    assert {config for config, *_ in rows} == {*pruned}
    assert len(rows) == len(pruned)
    for config, _, shown, _ in rows:
        results = pruned[config].get('Results')
        assert shown == (f'{next(iter(results[0]["Metrics"].values())):.4g}' if results else '')


# requirements


def test_install_requires_what_the_version_check_does():
    required = dict(re.match(r'(\w+)(.*)', line).groups() for line in (ROOT / 'requirements.txt').read_text().split())
    assert required == {'torch': version.wanted(version.TORCH), 'numpy': ''}
    assert version.wanted(((2, 0), (2, 14))) == '>=2.0,<2.14'


# configs of the package


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """A copy of the package beside its configs, with the links of an editable install."""
    root = tmp_path_factory.mktemp('checkout')
    shutil.copytree(ROOT / 'mmprune', root / 'mmprune', ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    for name in ('setup.py', 'requirements.txt', 'MANIFEST.in', 'README.md', 'LICENSE', 'pyproject.toml', *LINKED):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, root / name)
    (root / 'mmprune' / '.mim').mkdir()
    for name in LINKED:
        (root / 'mmprune' / '.mim' / name).symlink_to(os.path.join('..', '..', name))
    return root


@pytest.fixture
def mim(installed, monkeypatch):
    """Let mmengine find the copy's configs, as it finds those beside the module that is registered."""
    for module in ('config.config', 'hub.hub'):
        monkeypatch.setattr(f'mmengine.{module}.get_installed_path', lambda package: str(
            installed / 'mmprune') if package == registry.__name__ else os.path.dirname(sys.modules[package].__file__)
            if package in sys.modules else str(metadata.distribution(package).locate_file(package)))


def test_mmengine_finds_the_folder_of_the_package():
    module = sys.modules[MODULE2PACKAGE['mmprune']]
    assert os.path.dirname(module.__file__) == str(ROOT / 'mmprune')
    with pytest.raises(metadata.PackageNotFoundError):  # so that mmengine looks for the module
        metadata.distribution(MODULE2PACKAGE['mmprune'])


@pytest.mark.usefixtures('mim')
def test_get_config(installed):
    cfg = get_config(f'mmprune::{PRUNE}')
    assert cfg.filename == str(installed / 'mmprune' / '.mim' / 'configs' / PRUNE)
    expected = Config.fromfile(CONFIGS / PRUNE)
    assert cfg.to_dict() == expected.to_dict()
    assert read_config(f'mmprune::{PRUNE}').to_dict() == expected.to_dict()


@pytest.mark.usefixtures('mim')
def test_base_of_a_file_elsewhere(tmp_path, capsys):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = 'mmprune::{DIGITS}'\nmodel = dict(interval=7)\n")
    cfg = read_config(str(path))
    expected = Config.fromfile(CONFIGS / DIGITS)
    expected.model.interval = 7
    assert cfg.to_dict() == expected.to_dict()
    main(['cost', str(path)])
    mine = capsys.readouterr().out
    main(['cost', f'mmprune::{DIGITS}'])
    assert capsys.readouterr().out == mine
    assert '27,362,560' in mine


# what is built


def test_wheel_holds_files_although_the_checkout_has_links(installed, tmp_path):
    before = sorted(path.relative_to(installed).as_posix() for path in installed.rglob('*'))
    code = 'import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])'
    environment = dict(os.environ, PYTHONPATH='', PYTHONWARNINGS='ignore')
    subprocess.run([sys.executable, '-c', code, str(tmp_path)], cwd=installed, env=environment, check=True,
                   capture_output=True)
    after = (path.relative_to(installed).as_posix() for path in installed.rglob('*'))
    assert sorted(path for path in after if not path.startswith('mmprune.egg-info')) == before
    wheel, = tmp_path.glob('mmprune-*.whl')
    with zipfile.ZipFile(wheel) as built:
        names = set(built.namelist())
        assert f'mmprune/.mim/configs/{PRUNE}' in names
        assert built.read('mmprune/.mim/model-index.yml') == (ROOT / 'model-index.yml').read_bytes()
        info = f'mmprune-{version.__version__}.dist-info'
        about = built.read(f'{info}/METADATA').decode()
        assert 'mmprune = mmprune.commands:main' in built.read(f'{info}/entry_points.txt').decode()
    configs = {path.relative_to(ROOT).as_posix() for path in CONFIGS.rglob('*') if path.is_file()}
    shipped = {name[len('mmprune/.mim/'):] for name in names if name.startswith('mmprune/.mim/configs/')}
    assert shipped == {name for name in configs if '__pycache__' not in name}
    assert not [name for name in names if name.startswith(('tests', 'data')) or 'setup_env' in name]
    requires = {re.sub('[^a-z].*', '', line): {*re.findall(r'[<>]=?[\d.]+', line)}
                for line in re.findall(r'^Requires-Dist: (.*)', about, re.M) if 'extra' not in line}
    assert requires == {'torch': {*version.wanted(version.TORCH).split(',')}, 'numpy': set()}
    extras = re.findall(r'^Requires-Dist: ([\w-]*mmengine).*?extra == .(\w+).', about, re.M)
    assert sorted(extras) == [('mmengine', 'mmengine'), ('onedl-mmengine', 'onedl')]
    for line in re.findall(r'^Requires-Dist: .*mmengine.*', about, re.M):
        assert {*re.findall(r'[<>]=?[\d.]+', line)} == {*version.wanted(version.MMENGINE).split(',')}
