"""Pruned detectors and pose estimators go through mmdeploy: boxes after the NMS and keypoints are PyTorch's."""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported_detectors import (
    DETECTION,
    TRANSFORMERS,
    calm,
    export,
    last_nms,
    off,
    pruned_at_random,
    pruned_transformer,
    task_of,
)
from paths import ROOT

from mmprune.deploy import prediction
from mmprune.deploy.image import image_input
from mmprune.deploy.load import load_model, with_divisor
from mmprune.deploy.onnx_runtime import OnnxModel
from mmprune.models.from_config import read_config

for package in ('mmdeploy', 'mmdet', 'mmpose'):
    pytest.importorskip(package)
pytestmark = [pytest.mark.full, pytest.mark.data, pytest.mark.filterwarnings('ignore')]  # mmdeploy's and torch's tracer

POSE = ROOT / 'configs/deploy/pose-detection_simcc_onnxruntime_{}.py'
RETINANET = ROOT / 'configs/mmdet/group_fisher/retinanet/group_fisher_{}_deploy_retinanet_r50_fpn_1x_coco.py'
RTMPOSE = ROOT / 'configs/mmpose/group_fisher/group_fisher_deploy_rtmpose-s_8xb256-420e_{}-256x192.py'
#: the test pipeline brings images to 256 x 192
SMALLER = """
test_pipeline = [dict(step, scale=(256, 192)) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


def python(*args):
    return subprocess.run([sys.executable, *map(str, args)], cwd=ROOT, text=True, capture_output=True, timeout=400,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))


def detector_config(structure, folder):
    """Write the deploy config of a published structure for smaller images."""
    source = Path(str(RETINANET).format(structure))
    path = folder / f'{structure}.py'
    path.write_text(source.read_text().replace('{{ fileDirname }}', str(source.parent))
                    .replace('(1, 3, 1333, 800)', '(1, 3, 192, 256)') + SMALLER)
    return path


def find_something(model, x, boxes=500):
    """Scale the head of a random detector so that some pairs of a box and a class pass the threshold of 0.05."""
    head = model.bbox_head
    with torch.no_grad():
        scores, offsets = (torch.cat([level.flatten() for level in levels]) for levels in model(x, mode='tensor'))
        head.retina_reg.weight /= 10 * offsets.std()
        head.retina_cls.weight *= 2 / scores.std()
        scores = torch.cat([level.flatten() for level in model(x, mode='tensor')[0]])
        head.retina_cls.bias += math.log(0.05 / 0.95) - scores.kthvalue(len(scores) - boxes).values


@pytest.fixture(scope='module')
def detectors(tmp_path_factory):
    """Return a function: structure and image -> config file, checkpoint, and what the unpadded model predicts."""
    folder, made = tmp_path_factory.mktemp('retinanet'), {}

    def make(structure, image):
        if structure not in made:
            path = detector_config(structure, folder)
            cfg = read_config(str(path))
            model = load_model(with_divisor(cfg, 1), 'none')
            inputs = prediction.image_inputs(task_of(DETECTION, cfg), model, image)
            find_something(model, inputs.x)
            torch.save(dict(state_dict=model.state_dict()), folder / f'{structure}.pth')
            made[structure] = path, folder / f'{structure}.pth', prediction.predict(model, inputs)
        return made[structure]

    return make


def assert_same(agreement, count):
    assert agreement.total == agreement.matched >= count
    assert agreement.difference < 3e-4


@pytest.mark.parametrize(('structure', 'divisor'), [('act', 1), ('act', 8), ('act', 16)])
def test_boxes_after_nms(structure, divisor, detectors, data_root, tmp_path):
    image = str(data_root / 'bccd/test/BloodImage_00007.jpg')
    path, checkpoint, unpadded = detectors(structure, image)
    assert len(unpadded[0]) == 100
    assert (unpadded[0].scores > 0.05).all()
    assert len(unpadded[0].labels.unique()) > 5
    cfg = read_config(str(path))
    cfg.model.divisor = divisor
    task, model, onnx_file = export(DETECTION, cfg, checkpoint, image, tmp_path)
    assert all(count % divisor == 0 for count in model.fix_subnet.values())
    inputs = prediction.image_inputs(task, model, image)
    assert inputs.x.shape == (1, 3, 192, 256)
    # mmdet's own prediction, with its own NMS: padded as unpadded, onnxruntime as PyTorch
    assert_same(prediction.compare_predictions(unpadded, prediction.predict(model, inputs)), 100)
    assert_same(prediction.check_predictions(task, model, onnx_file, inputs), 100)
    backend = task.build_backend_model([str(onnx_file)], data_preprocessor_updater=task.update_data_preprocessor)
    assert_same(prediction.compare_predictions(unpadded, prediction.predict(backend, inputs)), 100)
    for part in ('backbone', 'bbox_head.retina_reg', 'bbox_head.retina_cls'):
        with pytest.raises(prediction.ParityError, match='must not be deployed'):
            prediction.check_predictions(task, off(model, part), onnx_file, inputs)


BOXES = 40


@pytest.mark.parametrize('name', ['faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'yolox/yolox_s_8xb8-300e_coco',
                                  'rtmdet/rtmdet_s_8xb32-300e_coco'])
def test_every_family_exports(name, data_root, tmp_path):
    """Two stages with RoIAlign, and heads without anchors: boxes of a pruned and padded network are PyTorch's."""
    cfg, image = pruned_at_random(name), str(data_root / 'tinycoco/images/val2017/000000444010.jpg')
    last_nms(cfg).update(score_thr=0.0)
    unpadded = load_model(with_divisor(cfg, 1), 'none')
    inputs = prediction.image_inputs(task_of(DETECTION, cfg), unpadded, image)
    calm(unpadded, inputs)
    torch.save(dict(state_dict=unpadded.state_dict()), tmp_path / 'random.pth')
    best = prediction.predict(unpadded, inputs)[0].scores.sort(descending=True).values
    last_nms(cfg).score_thr = float(best[BOXES - 1:BOXES + 1].mean())  # the best boxes, and no more
    task, model, onnx_file = export(DETECTION, cfg, tmp_path / 'random.pth', image, tmp_path)
    assert all(count % 8 == 0 for count in model.fix_subnet.values())
    agreement = prediction.check_predictions(task, model, onnx_file, inputs)
    assert agreement.total == agreement.matched == BOXES
    assert agreement.difference < 1e-4
    head = 'roi_head' if 'rcnn' in name else 'bbox_head'
    for part, noise in (('backbone', False), (head, False), (head, True)):
        with pytest.raises(prediction.ParityError, match='must not be deployed'):
            prediction.check_predictions(task, off(model, part, noise), onnx_file, inputs)


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_a_transformer_exports(name, data_root, tmp_path):
    """Heads, dimensions and streams are gone, positions and windows follow: all predictions are PyTorch's."""
    cfg, image = pruned_transformer(name), str(data_root / 'tinycoco/images/val2017/000000444010.jpg')
    unpadded = load_model(with_divisor(cfg, 1), 'none')
    if 'retinanet' in name:
        find_something(unpadded, prediction.image_inputs(task_of(DETECTION, cfg), unpadded, image).x)
    torch.save(dict(state_dict=unpadded.state_dict()), tmp_path / 'random.pth')
    task, model, onnx_file = export(DETECTION, cfg, tmp_path / 'random.pth', image, tmp_path)
    inputs = prediction.image_inputs(task, unpadded, image)
    agreement = prediction.check_predictions(task, model, onnx_file, inputs)
    assert agreement.total == agreement.matched == 100
    assert agreement.difference < 1e-4
    with pytest.raises(prediction.ParityError, match='must not be deployed'):
        prediction.check_predictions(task, off(model, 'bbox_head', True), onnx_file, inputs)


@pytest.mark.parametrize('divisor', [1, 8, 16])
def test_keypoints(divisor, data_root, tmp_path):
    image = str(data_root / 'pose_coco4/000000000785.jpg')
    cfg = read_config(str(RTMPOSE).format('coco'))
    unpadded = load_model(with_divisor(cfg, 1), 'none')
    torch.save(dict(state_dict=unpadded.state_dict()), tmp_path / 'pose.pth')
    cfg.model.divisor = divisor
    deploy_cfg = str(POSE).format('dynamic')
    task, model, onnx_file = export(deploy_cfg, cfg, tmp_path / 'pose.pth', image, tmp_path)
    assert not model.test_cfg.flip_test  # as in the file
    inputs = prediction.image_inputs(task, model, image)
    unpadded.test_cfg['flip_test'] = False
    wanted = prediction.predict(unpadded, inputs)
    keypoints = torch.as_tensor(wanted[0].keypoints)
    assert keypoints.shape == (1, 17, 2)
    assert (keypoints.amax(1) - keypoints.amin(1)).min() > 100  # of an image of 640 x 425
    assert_same(prediction.compare_predictions(wanted, prediction.predict(model, inputs)), 17)
    assert_same(prediction.check_predictions(task, model, onnx_file, inputs), 17)
    for part in ('backbone', 'head'):
        for noise in (False, True):
            with pytest.raises(prediction.ParityError, match='must not be deployed'):
                prediction.check_predictions(task, off(model, part, noise), onnx_file, inputs)
    batch = torch.cat([inputs.x, inputs.x.flip(3)])
    with torch.no_grad():
        for left, right in zip(unpadded(batch, None, mode='tensor'), OnnxModel(onnx_file)(batch)):
            assert (left - right).abs().max() < 1e-3 * left.abs().max()


def test_images_without_mmdeploy(data_root, tmp_path):
    """tools/export_onnx.py takes them from the test pipeline itself, without annotations."""
    for path, image, deploy_cfg in (
            (detector_config('act', tmp_path), 'bccd/test/BloodImage_00007.jpg', DETECTION),
            (Path(str(RTMPOSE).format('coco')), 'pose_coco4/000000040083.jpg', str(POSE).format('dynamic'))):
        cfg = read_config(str(path))
        model, image = load_model(cfg, 'none'), str(data_root / image)
        wanted = prediction.image_inputs(task_of(deploy_cfg, cfg), model, image).x
        assert torch.equal(image_input(cfg, model, image), wanted)
        assert wanted.std() > 0.3


def test_upstream_interface_for_a_detector(detectors, data_root, tmp_path):
    image = data_root / 'bccd/test/BloodImage_00007.jpg'
    path, checkpoint, unpadded = detectors('flops', str(image))
    done = python('tests/upstream_deploy.py', DETECTION, path, checkpoint, image, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    cfg = read_config(str(path))
    task = task_of(DETECTION, cfg)
    inputs = prediction.image_inputs(task, load_model(cfg, str(checkpoint)), str(image))
    backend = task.build_backend_model([str(tmp_path / 'end2end.onnx')])
    assert_same(prediction.compare_predictions(unpadded, prediction.predict(backend, inputs)), 100)
    assert {(tmp_path / f'output_{kind}.jpg').stat().st_size > 0 for kind in ('pytorch', 'onnxruntime')} == {True}
    tasks = json.loads((tmp_path / 'pipeline.json').read_text())['pipeline']['tasks']
    assert tasks[1]['name'] == 'retinanet'
    assert tasks[2]['params']['score_thr'] == 0.05


def test_tool_deploys_a_pose_estimator(data_root, tmp_path):
    path = str(RTMPOSE).format('aic-coco')
    model = load_model(with_divisor(read_config(path), 1), 'none')
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'pose.pth')
    done = python('tools/deploy.py', str(POSE).format('static'), path, tmp_path / 'pose.pth',
                  data_root / 'pose_coco4/000000040083.jpg', '--work-dir', tmp_path / 'out', '--rounds', 2)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith('warning')][-7:]
    assert lines[0] == '17 of 17 predictions are equal within 0.0003'
    assert float(lines[1].split()[-1]) < 1e-3
    assert [line.split()[0] for line in lines[2:6]] == ['PyTorch', 'onnxruntime', 'dense', 'pruned']
    assert 'times as fast as dense' in lines[6]  # the network without decoding
