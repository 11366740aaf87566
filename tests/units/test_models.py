"""Named models cut at random: every promise of a cut, by the sweep that also writes docs/models.md."""
import importlib.util
import json
import subprocess
import sys

import pytest
from paths import ROOT

pytestmark = pytest.mark.long

BENCHMARKS = ROOT / 'benchmarks'
spec = importlib.util.spec_from_file_location('sweep_models', BENCHMARKS / 'sweep_models.py')
sweep_models = importlib.util.module_from_spec(spec)
sys.modules['sweep_models'] = sweep_models
spec.loader.exec_module(sweep_models)

#: Together they meet residual adds, concats, shuffles, splits, gates, groups, shared branches, tokens and attention.
MMCLS = ('SE-ResNet-50', 'ResNeSt-50', 'Inception-v3', 'MobileNetV3-large', 'EfficientNet-B0', 'ShuffleNetV1',
         'ShuffleNetV2', 'CSPDarkNet-50', 'RepVGG-A0', 'ConvNeXt-tiny', 'DeiT-tiny', 'MobileViT-small', 'VAN-tiny',
         'PoolFormer-s12', 'EdgeNeXt-xxsmall')
TORCHVISION = ('GoogLeNet', 'SqueezeNet 1.1', 'MNASNet', 'RegNetY-400MF', 'ShuffleNetV2 x1.0', 'LR-ASPP')
#: Units of models whose structure is known: stages, blocks and branches counted by hand.
UNITS = {'SqueezeNet 1.1': 1 + 8 * 3,  # the stem, and three convs of eight fire modules
         'PoolFormer-s12': 12,  # one MLP a block
         'ConvNeXt-tiny': 18 + 4,  # the stream of each stage, too
         'DeiT-tiny': 4 * 12 + 1}  # an MLP, heads and their dimensions twice a block, and the stream


def prove(name, source, target):
    result = sweep_models.sweep(sweep_models.Entry(source, target, sweep_models.SIZES.get(name, (96, 96))), seeds=1)
    print(f'{name}: {result["units"]} units, {result["difference"]:.1e}, {result["share"]:.0%} of the MACs can go')
    assert sweep_models.problems(name, result) == []
    assert result['units'] == UNITS.get(name, result['units'])
    assert result['share'] > sweep_models.SHARE
    return result


@pytest.mark.filterwarnings('ignore:In MMCV v1.4.4')
@pytest.mark.parametrize('name', MMCLS)
def test_mmcls_model(name):
    prove(name, 'mmcls', sweep_models.MMCLS[name])


@pytest.mark.full
@pytest.mark.parametrize('name', TORCHVISION)
def test_torchvision_model(name):
    pytest.importorskip('torchvision')
    prove(name, 'torchvision', sweep_models.TORCHVISION[name])


def test_every_named_model_of_an_installed_package_is_swept():
    entries = sweep_models.entries()
    assert sum(map(len, sweep_models.OPENMMLAB.values())) + len(sweep_models.TORCHVISION) == 81
    assert {*sweep_models.MMCLS} < {*entries}
    assert 'op: C2f' in entries


@pytest.mark.parametrize(('change', 'problem'), [
    (dict(difference=1e-6), 'difference 1.0e-06'), (dict(rebuilt=float('nan')), 'rebuilt nan'),
    (dict(same_shapes=False), 'same_shapes'), (dict(backward=False), 'backward'),
    (dict(macs=[5, 6]), 'macs 5 by arithmetic, 6 counted'), (dict(unaccounted=['a.weight']), 'unaccounted: a.weight'),
    (dict(share=0.4), 'only 40% of the MACs can go'), (dict(error='RuntimeError: x'), 'RuntimeError: x')])
def test_a_broken_promise_is_told(change, problem):
    good = dict(units=3, difference=1e-15, rebuilt=0.0, same_shapes=True, backward=True, macs=[5, 5], share=0.9,
                unaccounted=[])
    assert sweep_models.problems('ResNet-50', good) == []
    assert sweep_models.problems('ResNet-50', {**good, **change}) == [problem]


def test_verify_tool_proves_and_counts(tmp_path):
    root = BENCHMARKS.parent
    done = subprocess.run(
        [sys.executable, str(root / 'tools/pruning/verify.py'), 'mmcls::mobilenet_v2/mobilenet-v2_8xb32_in1k.py',
         '--input-shape', '1', '3', '64', '64', '--seeds', '2', '--json', str(tmp_path / 'proof.json')],
        capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    proof = json.loads((tmp_path / 'proof.json').read_text())
    assert proof['units'] == 24
    assert len(proof['per_seed']) == 2
    assert proof['max_relative_difference'] < 1e-12
    assert proof['macs'] == proof['counted_macs']
    assert proof['unaccounted'] == []
    assert '24 units, largest relative difference' in done.stdout
    assert 'output shapes unchanged; backward pass runs' in done.stdout
