"""YOLOX-tiny, dense and pruned: a sound file is accepted on all images, one of weights that are 1 % off on none."""
from contextlib import contextmanager

import pytest
import torch
from exported_detectors import DETECTION, calm, export, last_nms, off, pruned_at_random, task_of

from mmprune.deploy import prediction
from mmprune.deploy.load import load_model, with_divisor
from mmprune.deploy.onnx_runtime import ParityError

for package in ('mmdeploy', 'mmdet'):
    pytest.importorskip(package)
pytestmark = [pytest.mark.full, pytest.mark.data, pytest.mark.filterwarnings('ignore')]  # mmdeploy's and torch's tracer


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Return a dict that lives as long as the module, and a folder."""
    return {}, tmp_path_factory.mktemp('yolox')


@pytest.fixture(params=['dense', 'pruned'])
def exported(request, data_root, files):
    """Return the task, the model, its file and twenty images as inputs."""
    made, folder = files
    if request.param not in made:
        images = sorted(map(str, (data_root / 'bccd/test').glob('*.jpg')))[:20]
        made[request.param] = exported_yolox(request.param, images, folder / request.param)
    return made[request.param]


def exported_yolox(kind, images, folder):
    folder.mkdir()
    cfg = pruned_at_random('yolox/yolox_tiny_8xb8-300e_coco')
    last_nms(cfg).nms.iou_threshold = 0.3  # random boxes rarely overlap by more
    model = load_model(with_divisor(cfg, 1 if kind == 'pruned' else None), 'none')
    calm(model, prediction.image_inputs(task_of(DETECTION, cfg), model, images[0]))
    torch.save(dict(state_dict=model.state_dict()), folder / 'random.pth')
    if kind == 'dense':
        cfg.model = cfg.model.architecture
    task, model, onnx_file = export(DETECTION, cfg, folder / 'random.pth', images[0], folder)
    backend = task.build_backend_model([str(onnx_file)], data_preprocessor_updater=task.update_data_preprocessor)
    task.build_backend_model = lambda *args, **kwargs: backend  # once for all images
    return task, model, onnx_file, [prediction.image_inputs(task, model, image) for image in images]


def test_a_sound_file_is_accepted(exported):
    task, model, onnx_file, images = exported
    for inputs in images:
        agreement = prediction.check_predictions(task, model, onnx_file, inputs)
        assert agreement.total == 100  # of many more: the file's limit
        assert agreement.matched + agreement.explained >= 100
        assert agreement.difference < 1e-4


@pytest.mark.parametrize(('part', 'noise'), [
    ('bbox_head', False), ('bbox_head', True), ('bbox_head.multi_level_conv_cls', True),
    ('bbox_head.multi_level_conv_reg', True), ('bbox_head.multi_level_conv_obj', True), ('backbone', False)])
def test_another_network_is_refused(part, noise, exported):
    task, model, onnx_file, images = exported
    other = off(model, part, noise)
    for inputs in images if part == 'bbox_head' else images[:5]:
        with pytest.raises(ParityError, match='must not be deployed'):
            prediction.check_predictions(task, other, onnx_file, inputs)


@contextmanager
def threshold(model, change):
    """Let PyTorch's NMS have another threshold."""
    settings = model.bbox_head.test_cfg.nms
    settings.iou_threshold += change
    yield
    settings.iou_threshold -= change


def test_two_boxes_at_the_threshold_of_the_nms(exported):
    """A thousandth more or less in PyTorch stands for rounding, which seldom decides."""
    task, model, onnx_file, images = exported
    explained = 0
    for change in (1e-3, -1e-3):
        with threshold(model, change):
            for inputs in images:
                explained += prediction.check_predictions(task, model, onnx_file, inputs).explained
    assert explained > 0


@pytest.mark.parametrize('change', [0.1, -0.1])
def test_another_nms_is_refused(change, exported):
    task, model, onnx_file, images = exported
    with threshold(model, change):
        for inputs in images[:5]:
            with pytest.raises(ParityError, match='must not be deployed'):
                prediction.check_predictions(task, model, onnx_file, inputs)
