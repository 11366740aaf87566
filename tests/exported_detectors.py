"""Detectors with random weights that find boxes, exported by mmdeploy, and the same networks a little off."""
import copy

import torch
from detection_runs import replaced
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from paths import ROOT

from mmprune.config import deploy_model, plain
from mmprune.deploy import prediction
from mmprune.deploy.load import load_model
from mmprune.models.from_config import read_config
from mmprune.registry import MODELS
from mmprune.units.equivalence import random_masks
from mmprune.units.mutator import ChannelMutator

DETECTION = ROOT / 'configs/deploy/detection_onnxruntime_dynamic.py'
#: The last layers of heads.
PREDICTORS = ('rpn_cls', 'rpn_reg', 'fc_cls', 'fc_reg', 'multi_level_conv_cls', 'multi_level_conv_reg',
              'multi_level_conv_obj', 'rtm_cls', 'rtm_reg')


def task_of(deploy_cfg, cfg):
    from mmdeploy.apis import build_task_processor
    return build_task_processor(cfg, read_config(str(deploy_cfg)), 'cpu')


def export(deploy_cfg, cfg, checkpoint, image, folder):
    """Export as upstream does; return the task, our own padded model, and the file."""
    from mmdeploy.apis import torch2onnx
    torch2onnx(image, str(folder), 'end2end.onnx', read_config(str(deploy_cfg)), cfg, str(checkpoint), 'cpu')
    task = task_of(deploy_cfg, cfg)
    return task, load_model(task.whole_cfg, str(checkpoint)), folder / 'end2end.onnx'


def last_nms(cfg):
    """Return what the last NMS is set by."""
    settings = cfg.model.architecture.test_cfg
    return settings.get('rcnn', settings)


def pruned_at_random(name):
    """Return a deploy config of a detector for images of 256 x 192, its units with about 70 % of their channels."""
    sizes = {(1333, 800): (256, 192), (640, 640): (256, 192), (416, 416): (256, 192)}
    cfg = Config(replaced(plain(read_config(f'mmdet::{name}.py')._cfg_dict), sizes))
    model = deploy_model(cfg, {}, 8, (1, 3, 192, 256))
    mutator = ChannelMutator(demo_input=model['demo_input'])
    init_default_scope('mmdet')
    mutator.prepare(MODELS.build(ConfigDict(cfg.model)))
    masks = random_masks(mutator.units, 0.3, 0)
    del model['_delete_']
    cfg.model = dict(model, fix_subnet={unit.name: int(masks[unit.name].sum()) for unit in mutator.units})
    return cfg


def small_detr(model):
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.in_channels = [64]
    model.encoder.num_layers, model.decoder.num_layers = 1, 2


def small_swin(model):
    model.backbone.update(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(2, 4, 4, 8), init_cfg=None)
    model.neck.update(in_channels=[32, 64, 128], out_channels=32)
    model.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=1)


#: Config of mmdet -> what makes it small.
TRANSFORMERS = {'detr/detr_r50_8xb2-150e_coco': small_detr, 'swin/retinanet_swin-t-p4-w7_fpn_1x_coco': small_swin}


def pruned_transformer(name):
    """Return a deploy config of a small detector for images of 128 x 96, all kinds of its units pruned at random."""
    cfg = Config(replaced(plain(read_config(f'mmdet::{name}.py')._cfg_dict), {(1333, 800): (128, 96)}))
    TRANSFORMERS[name](cfg.model)
    model = deploy_model(cfg, {}, 8, (1, 3, 96, 128), mutate_linear=True)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True), model['demo_input'])
    init_default_scope('mmdet')
    mutator.prepare(MODELS.build(ConfigDict(cfg.model)))
    mutator.cut(random_masks(mutator.units, 0.3, 0))
    del model['_delete_']
    cfg.model = dict(model, fix_subnet=mutator.portable_structure)
    return cfg


def calm(model, inputs):
    """Bring what random heads predict to a usual range, so that neither boxes nor scores saturate."""
    layers = [(name, module) for name, module in model.named_modules()
              if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
              and any(part in PREDICTORS for part in name.split('.'))]
    largest = {}
    hooks = [module.register_forward_hook(lambda _, __, out, name=name: largest.update(
        {name: max(largest.get(name, 0), float(out.abs().max()))})) for name, module in layers]
    prediction.predict(model, inputs)
    for hook in hooks:
        hook.remove()
    assert len(largest) == len(layers) >= 4
    with torch.no_grad():
        for name, module in layers:
            for parameter in module.parameters():
                parameter /= largest[name] / 2
            if 'rtm_reg' in name:
                module.bias += 3  # distances to the sides of a box, which training makes positive


def off(model, part, noise=False):
    """Return a copy of a model whose weights in a part of it are 1 % larger, or have random errors of 1 %."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    changed = [parameter for name, parameter in other.named_parameters()
               if name.startswith(part) and parameter.dim() > 1]
    assert changed
    with torch.no_grad():
        for parameter in changed:
            parameter *= 1 + 0.01 * (torch.randn(parameter.shape, generator=generator) if noise else 1)
    return other
