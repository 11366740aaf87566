"""The size that a config's model is tested on, worked out by hand for pipelines as the codebases write them."""
import pytest

from mmprune.arguments import UserError
from mmprune.config import deploy_model, prune_settings
from mmprune.graph.detector_inputs import demo_input_of
from mmprune.graph.input_shape import DEFAULT, input_of_test, shape_or_test_input


def config_of(*steps, stage='test', **more):
    steps = [dict(type='LoadImageFromFile'), *steps, dict(type='PackInputs')]
    return {f'{stage}_dataloader': dict(dataset=dict(type='X', pipeline=steps)), **more}


def test_size_after_the_steps_of_the_test():
    short, crop = dict(type='ResizeEdge', scale=256, edge='short'), dict(type='CenterCrop', crop_size=224)
    assert input_of_test(config_of(short, crop)) == (1, 3, 224, 224)
    assert input_of_test(config_of(short)) == (1, 3, 256, 256)
    assert input_of_test(config_of(dict(type='mmdet.Resize', scale=(320, 240)))) == (1, 3, 240, 320)  # width first
    assert input_of_test(config_of(dict(type='Resize', scale=32))) == (1, 3, 32, 32)
    assert input_of_test(config_of(dict(type='TopdownAffine', input_size=(192, 256)))) == (1, 3, 256, 192)


def test_detectors_keep_the_aspect_ratio_and_pad():
    keep = dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    assert input_of_test(config_of(keep)) == (1, 3, 800, 1333)
    padded = dict(model=dict(data_preprocessor=dict(pad_size_divisor=32, mean=[0.0] * 3)))
    assert input_of_test(config_of(keep, **padded)) == (1, 3, 800, 1344)
    assert input_of_test(config_of(keep, dict(type='Pad', size_divisor=128))) == (1, 3, 896, 1408)
    square = dict(type='Resize', scale=(416, 416), keep_ratio=True)
    assert input_of_test(config_of(square, dict(type='Pad', pad_to_square=True, pad_val=114))) == (1, 3, 416, 416)
    assert input_of_test(config_of(keep, dict(type='Pad', pad_to_square=True))) == (1, 3, 1333, 1333)
    assert input_of_test(config_of(keep, dict(type='Pad', size=(640, 480)))) == (1, 3, 480, 640)


def test_segmentation_has_bounds_of_one_side_and_windows():
    assert input_of_test(config_of(dict(type='Resize', scale=(2048, 1024), keep_ratio=True))) == (1, 3, 1024, 2048)
    ade = config_of(dict(type='Resize', scale=(2048, 512), keep_ratio=True))
    assert input_of_test(ade) == (1, 3, 512, 512)
    window = dict(model=dict(test_cfg=dict(mode='slide', crop_size=(256, 384), stride=(1, 1))))  # height first
    assert input_of_test({**ade, **window}) == (1, 3, 256, 384)


def test_codec_then_training_then_nothing():
    codec = dict(codec=dict(type='SimCCLabel', input_size=(192, 256)))
    assert input_of_test({**config_of(), **codec}) == (1, 3, 256, 192)
    assert input_of_test({**config_of(), 'codec': [codec['codec'], {}]}) == (1, 3, 256, 192)
    assert input_of_test({**config_of(dict(type='BottomupResize', input_size=(416, 416))), **codec}) == (1, 3, 416, 416)
    cifar = config_of(dict(type='RandomCrop', crop_size=32, padding=4), stage='train')
    assert input_of_test(cifar) == (1, 3, 32, 32)
    assert input_of_test({**cifar, **config_of(dict(type='Resize', scale=28))}) == (1, 3, 28, 28)
    assert input_of_test(config_of()) is None
    assert input_of_test({}) is None


def test_channels_are_those_that_are_normalised():
    grey = dict(data_preprocessor=dict(mean=[33.46], std=[78.87]))
    assert input_of_test(config_of(dict(type='Resize', scale=32), **grey)) == (1, 1, 32, 32)


def test_data_sets_inside_others_and_the_variable_of_a_pipeline():
    inner = config_of(dict(type='Resize', scale=32))['test_dataloader']['dataset']
    assert input_of_test(dict(test_dataloader=dict(dataset=dict(type='Repeat', dataset=inner)))) == (1, 3, 32, 32)
    several = dict(type='Combined', pipeline=[], datasets=[inner, dict(type='Y', pipeline=[])])
    assert input_of_test(dict(test_dataloader=dict(dataset=several))) == (1, 3, 32, 32)
    assert input_of_test(dict(test_pipeline=inner['pipeline'])) == (1, 3, 32, 32)
    assert input_of_test(config_of(dict(type='Resize', scale=32), stage='val')) == (1, 3, 32, 32)


def test_prune_and_deploy_configs_take_the_size_of_the_test_where_none_is_given():
    base = config_of(dict(type='Resize', scale=(40, 24)), model=dict(type='X'), optim_wrapper=dict(
        optimizer=dict(lr=0.1)))
    pruning = prune_settings(base, 'x.pth', 5, 'act', 0.1, 0.5)[0]
    assert pruning['mutator']['demo_input']['input_shape'] == (1, 3, 24, 40)
    assert deploy_model(base, {'a': 1})['demo_input']['input_shape'] == (1, 3, 24, 40)
    given = prune_settings(base, 'x.pth', 5, 'act', 0.1, 0.5, (1, 3, 8, 8))[0]
    assert given['mutator']['demo_input']['input_shape'] == (1, 3, 8, 8)
    assert shape_or_test_input(None, {}) == DEFAULT == (1, 3, 224, 224)


@pytest.mark.parametrize('shape', [(1, 3, 8), (3, 8, 8), (1, 3, 8, 8, 8), (1, 3, 0, 8), (1, 3, 8, -8), (1, 3, 8.0, 8),
                                   (1, 3, True, 8), 'x', 8])
def test_shape_is_four_positive_sizes(shape):
    with pytest.raises(UserError, match='input_shape must be four positive sizes with the batch first, like') as caught:
        demo_input_of({}, shape)
    assert '\n' not in str(caught.value)


def test_input_that_fills_the_memory_is_refused():
    with pytest.raises(UserError, match=r'input_shape is \(1, 3, 1000000000, 8\), an input of 2e\+10 numbers; it may'):
        demo_input_of({}, (1, 3, 10**9, 8))


@pytest.mark.full
@pytest.mark.parametrize(('config', 'shape'), [
    ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', (1, 3, 416, 416)),
    ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', (1, 3, 800, 1344)),
    ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (1, 3, 640, 640)),
    ('mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py', (1, 3, 256, 192)),
    ('mmpose::body_2d_keypoint/dekr/coco/dekr_hrnet-w32_8xb10-140e_coco-512x512.py', (1, 3, 512, 512)),
    ('mmpretrain::resnet/resnet50_8xb32_in1k.py', (1, 3, 224, 224)),
    ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', (1, 3, 32, 32)),
    ('mmpretrain::lenet/lenet5_mnist.py', (1, 1, 32, 32)),
    ('mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', (1, 3, 512, 512)),
    ('mmseg::deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py', (1, 3, 1024, 2048))])
def test_configs_of_the_codebases(config, shape):
    package = config.partition('::')[0]
    pytest.importorskip(package)
    from mmprune.models.from_config import read_config
    assert input_of_test(read_config(config)) == shape
