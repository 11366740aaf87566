"""Small networks with random weights, their data and their deployed files, for tests of what such a file is worth."""
import importlib
import json

import exported_detectors
import numpy as np
import torch
from exported_detectors import task_of
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from paths import CONFIGS, TESTS
from PIL import Image
from segmentation_runs import SIZE, dense_config, write_shapes

from mmprune.deploy import prediction
from mmprune.deploy.load import load_model, with_divisor
from mmprune.engine.evaluation import Evaluation
from mmprune.models.from_config import mutator_from_config, read_config
from mmprune.registry import load_plugins

DETECTION, POSE, SEGMENTATION = (CONFIGS / f'deploy/{name}_onnxruntime_dynamic.py' for name in (
    'detection', 'pose-detection_simcc', 'segmentation'))
IMAGES, BOXES = 6, 5
#: to be formatted with: base, root
DETECTOR = '''
_base_ = {base!r}
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 64), keep_ratio=True),
                 dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
train_dataloader = dict(
    _delete_=True, batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(type='CocoDataset', ann_file={root!r} + '/boxes.json', data_prefix=dict(img={root!r} + '/'),
                 metainfo=dict(classes=('red', 'green', 'blue')), pipeline=test_pipeline))
test_dataloader = dict(train_dataloader, sampler=dict(type='DefaultSampler', shuffle=False),
                       dataset=dict(train_dataloader['dataset'], test_mode=True))
test_cfg = dict(_delete_=True, type='TestLoop')
test_evaluator = dict(_delete_=True, type='CocoMetric', ann_file={root!r} + '/boxes.json', metric='bbox')
model = dict(test_cfg=dict(score_thr=0.3, max_per_img=20))
'''


def export(deploy_cfg, cfg, checkpoint, image, folder):
    """Export a dense model, whose config does not load our plug-in for mmdeploy; return the ONNX file."""
    importlib.import_module('mmdeploy.apis')
    load_plugins()
    return exported_detectors.export(deploy_cfg, cfg, checkpoint, image, folder)[2]


def write_boxes(folder, boxes):
    """Write annotations in COCO's format: image number -> ``(x, y, w, h, class)`` of each box."""
    annotations = [dict(id=number + 1, image_id=image, category_id=int(box[4]), bbox=[float(v) for v in box[:4]],
                        area=float(box[2] * box[3]), iscrowd=0)
                   for number, (image, box) in enumerate((i, box) for i, several in boxes.items() for box in several)]
    (folder / 'boxes.json').write_text(json.dumps(dict(
        images=[dict(id=i, file_name=f'{i}.png', width=96, height=64) for i in range(IMAGES)], annotations=annotations,
        categories=[dict(id=i, name=name) for i, name in enumerate(('red', 'green', 'blue'))])))


#: to be formatted with: base, structure, shape
DEPLOY = '''
_base_ = {base!r}
from mmprune.config import deploy_model
model = deploy_model(_base_, {structure!r}, 8, {shape})
'''


def halved(path, shape):
    """Write the deploy config of a model, half of each of its units left, beside its own; return its path."""
    mutator, _ = mutator_from_config(str(path), shape)
    structure = {unit.name: max(1, unit.num_sets // 2) * unit.multiplicity for unit in mutator.units}
    out = path.with_name(f'deploy_{path.name}')
    out.write_text(DEPLOY.format(base=str(path), structure=structure, shape=shape))
    return out


def write_detector(folder, pruned=False):
    """Write a config and a checkpoint of a random detector, whose data's boxes are those that it finds first."""
    generator = np.random.RandomState(0)
    for number in range(IMAGES):
        blocks = generator.randint(0, 255, (8, 12, 3)).astype(np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(folder / f'{number}.png')
    write_boxes(folder, {i: [(8, 8, 30, 30, 0)] for i in range(IMAGES)})
    path = folder / 'detector.py'
    path.write_text(DETECTOR.format(base=str(TESTS / 'configs/tiny_retinanet.py'), root=str(folder)))
    if pruned:
        path = halved(path, (1, 3, 64, 96))
    cfg = read_config(str(path))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = load_model(with_divisor(cfg, 1) if pruned else cfg, 'none')
    calm_retinanet(model, prediction.image_inputs(task_of(DETECTION, cfg), model, str(folder / '0.png')))
    torch.save(dict(state_dict=model.state_dict()), folder / 'detector.pth')
    found = {}
    for batch in Runner.build_dataloader(cfg.test_dataloader):
        with torch.no_grad():
            samples = model.test_step(batch)
        for sample in samples:
            boxes, labels = sample.pred_instances.bboxes[:BOXES], sample.pred_instances.labels[:BOXES]
            found[sample.img_id] = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], labels[:, None]], 1).tolist()
    write_boxes(folder, found)
    return path, folder / 'detector.pth'


def detector(folder):
    """Return config, checkpoint and ONNX file of a random detector."""
    path, checkpoint = write_detector(folder)
    return path, checkpoint, export(DETECTION, read_config(str(path)), checkpoint, str(folder / '0.png'), folder)


def calm_retinanet(model, inputs):
    """Bring what a random RetinaNet predicts to a usual range; no box ends outside of the image."""
    head = model.bbox_head
    with torch.no_grad():
        for layer, scale in ((head.retina_cls, 2.0), (head.retina_reg, 0.05)):
            seen = []
            handle = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.flatten()))
            model(inputs.x, mode='tensor')
            handle.remove()
            layer.weight *= scale / torch.cat(seen).std()
            layer.bias.zero_()


def segmentor(folder):
    """Return config file, checkpoint and ONNX file of a random segmentor on drawn shapes."""
    write_shapes(folder / 'shapes')
    path = folder / 'segmentor.py'
    path.write_text(dense_config('deeplabv3plus', folder / 'shapes'))
    cfg = read_config(str(path))
    init_default_scope('mmseg')
    cfg.input_shape = (1, 3, SIZE, SIZE)
    model = load_model(cfg, 'none')
    torch.save(dict(state_dict=model.state_dict()), folder / 'segmentor.pth')
    image = str(folder / 'shapes/images/val/000.png')
    onnx_file = export(SEGMENTATION, cfg, folder / 'segmentor.pth', image, folder)
    return path, folder / 'segmentor.pth', onnx_file


def accuracy_of(config, checkpoint):
    """Return the metrics of the PyTorch model."""
    cfg = Config.fromfile(str(config))
    init_default_scope(cfg.default_scope)
    return Evaluation(cfg, 'test')(load_model(read_config(str(config)), str(checkpoint)))
