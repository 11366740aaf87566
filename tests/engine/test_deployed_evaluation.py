"""A deployed file is worth what its PyTorch model is worth, by the evaluator of the config."""
import json

import pytest
import torch
from digits_runs import write_prune_config
from mmengine.config import Config
from mmengine.registry import init_default_scope
from paths import CONFIGS, TINY

from mmprune.arguments import UserError
from mmprune.commands import main
from mmprune.deploy.load import load_model
from mmprune.deploy.onnx_export import export_onnx
from mmprune.engine.deployed_evaluation import DeployedEvaluation, fitted
from mmprune.engine.evaluation import Evaluation
from mmprune.models.from_config import read_config

pytest.importorskip('onnxruntime')
CLASSIFICATION, STATIC = (CONFIGS / f'deploy/classification_onnxruntime_{kind}.py' for kind in ('dynamic', 'static'))


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """A random classifier of digits, and its files: for any batch, and for one image."""
    folder = tmp_path_factory.mktemp('digits')
    write_prune_config(folder)
    model = load_model(read_config(str(TINY)), str(folder / 'dense.pth'))
    for name, dynamic in (('any.onnx', True), ('one.onnx', False)):
        export_onnx(model, torch.zeros(1, 3, 16, 16), folder / name, dynamic)
    return folder, model


@pytest.mark.parametrize('name', ['any.onnx', 'one.onnx'])
def test_a_classifier(name, digits):
    folder, model = digits
    cfg = Config.fromfile(TINY)
    init_default_scope('mmcls')
    wanted = Evaluation(cfg, 'test')(model)
    assert 2 < wanted['accuracy/top1'] < 60
    assert DeployedEvaluation(read_config(str(CLASSIFICATION)), cfg)(folder / name) == wanted


def test_many_labels(digits, tmp_path):
    """A head of many labels: the scores are sigmoids."""
    cfg = Config.fromfile(TINY)
    cfg.model.head = dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64)
    cfg.test_evaluator = [dict(type='MultiLabelMetric', average='macro'), dict(type='AveragePrecision')]
    init_default_scope('mmcls')
    torch.manual_seed(0)
    model = load_model(cfg, 'none')
    export_onnx(model, torch.zeros(1, 3, 16, 16), tmp_path / 'x.onnx', True)
    wanted = Evaluation(cfg, 'test')(model)
    found = DeployedEvaluation(read_config(str(CLASSIFICATION)), cfg)(tmp_path / 'x.onnx')
    assert found == pytest.approx(wanted, abs=1e-3)


def test_the_command_writes_the_metrics(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    folder, model = digits
    main(['test-deployed', str(CLASSIFICATION), str(TINY), str(folder / 'any.onnx'), '--json', str(tmp_path / 'x.json'),
          '--work-dir', str(tmp_path / 'w'), '--cfg-options', 'test_dataloader.dataset.indices=50'])
    found = json.loads((tmp_path / 'x.json').read_text())
    assert found == json.loads((tmp_path / 'w/test_deployed.json').read_text())
    cfg = Config.fromfile(TINY)
    cfg.test_dataloader.dataset.indices = 50
    assert found == Evaluation(cfg, 'test')(model)
    assert f'  accuracy/top1: {found["accuracy/top1"]:.4f}' in capsys.readouterr().out


@pytest.mark.parametrize(('deploy', 'options', 'message'), [
    ('detection', {}, 'the deploy config is for models of mmdet, the model config is of mmcls'),
    ('classification', {'test_evaluator': None, 'val_evaluator': None}, 'the config has no test_dataloader and'),
    ('classification', {'test_dataloader.dataset.pipeline': [dict(type='Resize', scale=(20, 20)),
                                                             dict(type='PackClsInputs')]},
     "one.onnx' cannot be run on an input of shape (1, 3, 20, 20)")])
def test_what_does_not_fit_is_one_line(deploy, options, message, digits):
    folder, _ = digits
    cfg = Config.fromfile(TINY)
    cfg.merge_from_dict(options)
    init_default_scope('mmcls')
    deploy_cfg = read_config(str(CONFIGS / f'deploy/{deploy}_onnxruntime_dynamic.py'))
    with pytest.raises(UserError) as caught:
        DeployedEvaluation(deploy_cfg, cfg)(folder / 'one.onnx')
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_files_that_are_none(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    (tmp_path / 'text.onnx').write_text('no file')
    for name, message in (('none.onnx', 'there is no file '), ('text.onnx', 'is no ONNX file that onnxruntime can')):
        with pytest.raises(SystemExit):
            main(['test-deployed', str(CLASSIFICATION), str(TINY), str(tmp_path / name)])
        error = capsys.readouterr().err
        assert message in error
        assert error.count('\n') == 1


def test_images_fit_a_file_of_a_fixed_size():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(9, 9), keep_ratio=True),
                dict(type='Pad', size=(9, 9)), dict(type='X')]
    cfg = Config(dict(test_dataloader=dict(batch_size=4, dataset=dict(type='Y', dataset=dict(pipeline=pipeline)))))
    for shape, batch, size, ratio in (([1, 3, 32, 64], 1, (64, 32), False), (['n', 3, 'h', 'w'], 4, (9, 9), True)):
        loader = fitted(cfg, 'test', shape, 'ObjectDetection').test_dataloader
        steps = loader.dataset.dataset.pipeline
        assert (loader.batch_size, steps[1].scale, steps[1].keep_ratio, steps[2].size) == (batch, size, ratio, size)
    assert fitted(cfg, 'test', [1, 3, 32, 64], 'Classification').test_dataloader.dataset == cfg.test_dataloader.dataset
    with pytest.raises(UserError, match='the file takes 8 images at a time'):
        fitted(cfg, 'test', [8, 3, 32, 64], 'Classification')


@pytest.mark.full
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(('task', 'least'), [('detector', 0.3), ('segmentor', 1.0)])
def test_detector_and_segmentor(task, least, tmp_path):
    pytest.importorskip('mmdeploy')
    import deployed_runs
    config, checkpoint, onnx_file = getattr(deployed_runs, task)(tmp_path)
    deploy_cfg = read_config(str(deployed_runs.DETECTION if task == 'detector' else deployed_runs.SEGMENTATION))
    wanted = deployed_runs.accuracy_of(config, checkpoint)
    assert max(wanted.values()) > least
    cfg = read_config(str(config))
    assert DeployedEvaluation(deploy_cfg, cfg)(onnx_file) == pytest.approx(wanted, abs=2e-3)


POSE = '''
_base_ = 'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py'
test_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(
    data_root={root!r}, ann_file='annotations/person_keypoints_val2017.json', data_prefix=dict(img='images/val2017/'),
    indices=6, bbox_file=None))
test_evaluator = dict(_delete_=True, type='EPE')
model = dict(backbone=dict(init_cfg=None), test_cfg=dict(flip_test=False))
'''


@pytest.mark.full
@pytest.mark.data
@pytest.mark.filterwarnings('ignore')
def test_pose_estimator(data_root, tmp_path):
    pytest.importorskip('mmdeploy')
    import deployed_runs
    (tmp_path / 'pose.py').write_text(POSE.format(root=str(data_root / 'pose_minicoco')))
    cfg = read_config(str(tmp_path / 'pose.py'))
    init_default_scope('mmpose')
    torch.save(dict(state_dict=load_model(cfg, 'none').state_dict()), tmp_path / 'pose.pth')
    image = next((data_root / 'pose_minicoco/images/val2017').glob('*.jpg'))
    onnx_file = deployed_runs.export(deployed_runs.POSE, cfg, tmp_path / 'pose.pth', str(image), tmp_path)
    wanted = deployed_runs.accuracy_of(tmp_path / 'pose.py', tmp_path / 'pose.pth')
    assert wanted['EPE'] > 1
    assert DeployedEvaluation(read_config(str(deployed_runs.POSE)), cfg)(onnx_file) == pytest.approx(wanted, rel=1e-3)
