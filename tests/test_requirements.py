"""The files in requirements/ fit together, and no environment gets two distributions of one module."""
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT

NAMES = ('full', 'light', 'legacy')
SAME_MODULE = (('mmengine', 'onedl-mmengine', 'mmengine-lite'), ('mmcv', 'mmcv-lite'),
               ('opencv-python', 'opencv-python-headless'))


def requirements(file):
    lines = (line.partition('#')[0].strip() for line in (ROOT / 'requirements' / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith('-')]


def asked_for(name):
    return requirements(f'{name}.txt') + requirements(f'{name}-nodeps.txt')


@pytest.mark.parametrize('name', NAMES)
def test_pins_fit_what_is_asked_for(name):
    pins = {canonicalize_name(pin.name): str(pin.specifier) for pin in requirements(f'constraints-{name}.txt')}
    for asked in asked_for(name) + requirements('tests.txt'):
        pin = pins.get(canonicalize_name(asked.name), str(asked.specifier))
        assert pin.startswith('=='), f'{asked.name} has no version in constraints-{name}.txt'
        assert asked.specifier.contains(pin[2:]), f'{asked} is pinned to {pin}'


@pytest.mark.parametrize('name', NAMES)
def test_one_distribution_of_a_module(name):
    found = {canonicalize_name(one.name) for one in asked_for(name) + requirements(f'constraints-{name}.txt')}
    for several in SAME_MODULE:
        assert len(found.intersection(several)) == 1, several


def test_libraries_bring_nothing_that_full_has():
    """What stands in front of full's packages hides them: none has two versions."""
    below = {canonicalize_name(one.name) for one in asked_for('full') + requirements('constraints-full.txt')}
    above = requirements('benchmarks.txt') + requirements('constraints-benchmarks.txt')
    assert all(str(one.specifier).startswith('==') for one in above)
    assert not below & {canonicalize_name(one.name) for one in above}


#: Versions of protobuf that releases ask for.
PROTOBUF = {'tensorboard==2.21.0': '>=6.31.1,<8', 'tensorboard==2.20.0': '>=3.19.6,!=4.24.0',
            'mmdeploy==1.3.1': '<=3.20.2'}


@pytest.mark.parametrize('name', NAMES)
def test_one_protobuf_serves_tensorboard_and_mmdeploy(name):
    """Except in full, where mmdeploy is installed without what it asks for: onnx cannot use its protobuf."""
    pins = {canonicalize_name(pin.name): pin for pin in requirements(f'constraints-{name}.txt')}
    asking = ['tensorboard', *(['mmdeploy'] if name == 'legacy' else [])]
    for asked in asking:
        wanted = Requirement(f'protobuf{PROTOBUF[str(pins[asked])]}').specifier
        assert wanted.contains(str(pins['protobuf'].specifier)[2:])
    assert 'tensorboard' in {canonicalize_name(one.name) for one in asked_for(name)}


def test_an_unknown_environment_is_told():
    done = subprocess.run(['bash', 'tools/setup_env.sh', 'modern'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == 'usage: bash tools/setup_env.sh full|light|legacy|benchmarks\n'
