"""Our model configs work with mmdeploy's own interface, on mmcls and on mmpretrain."""
import json
import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from paths import ROOT

from mmprune.config import plain
from mmprune.deploy.image import image_input, sample_image
from mmprune.deploy.load import load_model, with_divisor
from mmprune.deploy.onnx_runtime import OnnxModel, ParityError, check_parity
from mmprune.models.from_config import read_config
from mmprune.registry import load_plugins
from mmprune.units.equivalence import relative_difference

pytest.importorskip('mmdeploy')
pytest.importorskip('mmpretrain')
pytestmark = pytest.mark.full

MOBILENET = ROOT / 'configs/mmcls/group_fisher/mobilenet/group_fisher_act_deploy_mobilenet-v2_8xb32_in1k.py'
DEPLOY = 'configs/deploy/classification_onnxruntime_{}.py'


def python(*args):
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, text=True, capture_output=True, timeout=400,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))


def published(base, folder):
    """Write the published MobileNetV2 act deploy config on a base package, and a checkpoint as finetuning leaves it."""
    path = folder / 'deploy.py'
    path.write_text(MOBILENET.read_text().replace('mmcls::', f'{base}::').replace('{{ fileDirname }}',
                                                                                str(MOBILENET.parent)))
    cfg = read_config(str(path))
    unpadded = load_model(with_divisor(cfg, 1), 'none')
    torch.save(dict(state_dict=unpadded.state_dict()), folder / 'finetuned.pth')
    return path, cfg, folder / 'finetuned.pth', unpadded


@pytest.mark.parametrize(('base', 'kind'), [('mmcls', 'dynamic'), ('mmpretrain', 'static')])
def test_upstream_interface(base, kind, tmp_path):
    path, cfg, checkpoint, unpadded = published(base, tmp_path)
    image = sample_image()
    done = python('tests/upstream_deploy.py', DEPLOY.format(kind), path, checkpoint, image, tmp_path / 'out')
    assert done.returncode == 0, done.stdout + done.stderr

    onnx_model = OnnxModel(tmp_path / 'out/end2end.onnx')
    x = image_input(cfg, unpadded, image)
    with torch.no_grad():
        scores = unpadded(x, mode='tensor').softmax(1)
    assert onnx_model(x)[0].shape == (1, 1000)
    assert relative_difference([scores], onnx_model(x)) < 1e-4
    # padded on the way: the stem of the published structure has 21 channels, the file 32
    weights = [shape for shape in initializers(tmp_path / 'out/end2end.onnx') if shape[1:] == (3, 3, 3)]
    stem = unpadded.backbone.conv1.conv.weight.size(0)
    assert stem % 16 != 0
    assert weights == [(-(-stem // 16) * 16, 3, 3, 3)]
    if kind == 'dynamic':
        batch = torch.cat([x, x.flip(3), x.flip(2)])
        with torch.no_grad():
            assert relative_difference([unpadded(batch, mode='tensor').softmax(1)], onnx_model(batch)) < 1e-4
    assert (tmp_path / 'out/output_onnxruntime.jpg').stat().st_size > 0
    assert (tmp_path / 'out/output_pytorch.jpg').stat().st_size > 0
    tasks = json.loads((tmp_path / 'out/pipeline.json').read_text())['pipeline']['tasks']
    assert tasks[0]['transforms'][-1]['type'] == 'Collect'
    assert tasks[1]['name'] == 'mobilenetv2'
    assert tasks[2]['component'] == 'LinearClsHead'


def initializers(path):
    import onnx
    return [tuple(tensor.dims) for tensor in onnx.load(str(path)).graph.initializer]


def test_tool_deploys_a_dense_mmcls_model(tmp_path):
    base = 'mmcls::resnet/resnet18_8xb32_in1k.py'
    cfg = read_config(base)
    model = load_model(cfg, 'none')
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'dense.pth')
    arguments = [DEPLOY.format('static'), base, tmp_path / 'dense.pth', sample_image(), '--work-dir', tmp_path / 'out',
                 '--rounds', 2]
    done = python('tools/deploy.py', *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith('warning')][-3:]
    assert 'parity with PyTorch, largest relative difference' in lines[0]
    assert float(lines[0].split()[-1]) < 1e-4
    assert [line.split()[0] for line in lines[1:]] == ['PyTorch', 'onnxruntime']
    with torch.no_grad():
        model.head.fc.weight[0] += 0.1
    with pytest.raises(ParityError):
        check_parity(OnnxModel(tmp_path / 'out/end2end.onnx'), _Scores(model), image_input(cfg, model))


ARRAYS = """
default_scope = 'mmcls'
model = dict(
    type='ImageClassifier', backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', num_classes=10, in_channels=64))
data_preprocessor = dict(num_classes=10, mean=[125.0] * 3, std=[50.0] * 3, to_rgb=True)
test_dataloader = dict(dataset=dict(type='CIFAR10', pipeline=[
    dict(type='ResizeEdge', scale=40), dict(type='CenterCrop', crop_size=32), dict(type='PackClsInputs')]))
"""


def test_tool_takes_the_pipeline_of_the_data_loader(tmp_path):
    """mmdeploy looks for test_pipeline only, which not every config has."""
    (tmp_path / 'arrays.py').write_text(ARRAYS)
    torch.save(load_model(read_config(str(tmp_path / 'arrays.py')), 'none').state_dict(), tmp_path / 'dense.pth')
    done = python('tools/deploy.py', DEPLOY.format('dynamic'), tmp_path / 'arrays.py', tmp_path / 'dense.pth',
                  sample_image(), '--work-dir', tmp_path / 'out', '--rounds', 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'parity with PyTorch, largest relative difference' in done.stdout


STEPS = ['LoadImageFromFile', 'Resize', 'ResizeEdge', 'CenterCrop', 'PackClsInputs']


@pytest.mark.filterwarnings('ignore:The current default scope')
@pytest.mark.parametrize(('place', 'wanted'), [('test', STEPS), ('val', STEPS), ('concat', STEPS), ('none', None)])
def test_task_has_the_pipeline_where_mmdeploy_looks_for_it(place, wanted):
    from mmprune.deploy.mmdeploy_task import PrunedClassification
    cfg = Config.fromstring(ARRAYS, '.py')
    loader = plain(cfg.pop('test_dataloader'))
    cfg.merge_from_dict(dict(
        test=dict(test_dataloader=loader), val=dict(test_dataloader=None, val_dataloader=loader), none={},
        concat=dict(test_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[loader['dataset']]))))[place])
    before = cfg.pretty_text
    task = PrunedClassification(cfg, read_config(str(ROOT / DEPLOY.format('dynamic'))), 'cpu')
    found = task.model_cfg.get('test_pipeline')
    assert (found and [step['type'] for step in found]) == wanted
    assert cfg.pretty_text == before


class _Scores(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x, mode='tensor').softmax(1)


def test_tool_refuses_a_foreign_checkpoint(tmp_path):
    torch.save(dict(state_dict={'conv.weight': torch.zeros(1)}), tmp_path / 'other.pth')
    done = python('tools/deploy.py', DEPLOY.format('static'), MOBILENET, tmp_path / 'other.pth', sample_image(),
                  '--work-dir', tmp_path / 'out')
    assert done.returncode == 2
    assert 'is not a checkpoint of this ImageClassifier' in done.stderr
    assert not (tmp_path / 'out').exists()


def test_plugin_is_loaded_only_beside_mmdeploy():
    code = ('import sys; import {}mmprune.models.from_config as f; f.read_config({!r}); '
            "print('mmprune.deploy.mmdeploy_rewriters' in sys.modules, 'mmdeploy' in sys.modules)")
    for imported, expected in (('mmdeploy.apis, ', ['True', 'True']), ('', ['False', 'False'])):
        done = python('-c', code.format(imported, str(MOBILENET)))
        assert done.stdout.split()[-2:] == expected, done.stderr


def test_static_methods_stay_static():
    """What mmdeploy rewrites of Swin's windows is static, and is called by its next forward in the same process."""
    from mmdeploy.core import RewriterContext
    from mmpretrain.models.utils import ShiftWindowMSA

    load_plugins()
    window = ShiftWindowMSA(4, 2, window_size=2, shift_size=1).eval()
    tokens = torch.randn(1, 16, 4)
    before = window(tokens, (4, 4))
    for _ in range(2):
        with RewriterContext({}, backend='onnxruntime'):
            assert not isinstance(vars(ShiftWindowMSA)['get_attn_mask'], staticmethod)
        assert torch.equal(window(tokens, (4, 4)), before)
