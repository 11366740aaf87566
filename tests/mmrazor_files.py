"""Pruned checkpoints in mmrazor's layout, of models that it was seen to write; see ``mmrazor_units.json``."""
import json
from typing import NamedTuple

import numpy as np
import torch
from mmengine.registry import init_default_scope
from paths import TESTS

from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.units.equivalence import random_mask

HEAD = dict(type='ClsHead', loss=dict(type='CrossEntropyLoss'))


def classifier(backbone, channels=None):
    """The config of an mmcls classifier; without ``channels`` the backbone classifies."""
    if channels is None:
        return dict(type='ImageClassifier', backbone=backbone, head=HEAD)
    head = dict(type='LinearClsHead', num_classes=10, in_channels=channels, loss=dict(type='CrossEntropyLoss'))
    return dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)


#: name -> config of the model or name of one, side or sides of the images
CLASSIFIERS = {
    'resnet18': (classifier(dict(type='ResNet', depth=18), 512), (64, 64)),
    'mobilenet_v2': (classifier(dict(type='MobileNetV2'), 1280), (64, 64)),
    'resnext50': (classifier(dict(type='ResNeXt', depth=50, groups=32, width_per_group=4), 2048), (64, 64)),
    'vgg11bn': (classifier(dict(type='VGG', depth=11, norm_cfg=dict(type='BN'), num_classes=10)), (224, 224)),
    'alexnet': (classifier(dict(type='AlexNet', num_classes=10)), (224, 224))}
OTHERS = {
    'retinanet_r50': ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', (128, 128)),
    'yolox_tiny': ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', (128, 128)),
    'atss_r50': ('mmdet::atss/atss_r50_fpn_1x_coco.py', (128, 128)),
    'rtmdet_tiny': ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (128, 128)),
    'rtmpose_s': ('mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py', (256, 192)),
    'pose_res50': ('mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py', (256, 192))}


class Mask(NamedTuple):
    """A mask that mmrazor writes."""

    layer: str  #: the first layer that produces its channels
    width: int
    may_prune: bool


def written_by_mmrazor(model):
    """Return the masks of a model's checkpoint, in their order."""
    entries = [entry.split() for entry in json.loads((TESTS / 'mmrazor_units.json').read_text())[model]]
    return [Mask(layer, int(width), not stays) for layer, width, *stays in entries]


def dense_algorithm(model):
    """Return our algorithm around a model; units are found without a trial cut, which takes long."""
    config, size = {**CLASSIFIERS, **OTHERS}[model]
    scope = 'mmcls'
    if isinstance(config, str):
        from mmengine.hub import get_config
        cfg = get_config(config)
        config, scope = cfg.model, cfg.default_scope
        config['backbone'].update({key: value for key, value in (('init_cfg', None), ('frozen_stages', -1))
                                   if key in config['backbone']})
        config.pop('data_preprocessor')
    init_default_scope(scope)
    demo_input = dict(type='DemoInput', input_shape=(1, 3, *size))
    return GroupFisherAlgorithm(dict(config, _scope_=scope), mutator=dict(
        type='GroupFisherChannelMutator', trial_cut=False, demo_input=demo_input))


def random_masks_of(model, seed=0):
    """Return a vector for each of mmrazor's masks; those of channels that it never prunes are all ones."""
    generator = np.random.RandomState(seed)
    return [random_mask(generator, mask.width, mask.width * 2 // 5) if mask.may_prune else np.ones(mask.width, bool)
            for mask in written_by_mmrazor(model)]


def pruned_state(architecture, masks):
    """Return the state dict that mmrazor saves: the model at full size, and for each unit its scores and its mask."""
    state = {f'architecture.{key}': value.clone() for key, value in architecture.state_dict().items()}
    for number in reversed(range(len(masks))):  # the order of the keys must not matter
        mask = torch.from_numpy(masks[number])
        state[f'mutator.units.{number}.normalized_fisher_info'] = torch.zeros(len(mask), dtype=torch.float64)
        state[f'mutator.units.{number}.mutable_channel.mask'] = mask.float()
    return state
