"""Networks that nobody wrote for mmprune: timm, transformers, segmentation_models_pytorch, ultralytics, OpenMMLab's."""
import importlib.util
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from openmmlab_transformers import CONFIGS, build_openmmlab
from torch import nn


class Entry(NamedTuple):
    """A network: its family (a heading of the page), its package, its name there, the size of its images."""

    family: str
    package: str
    target: str
    size: int
    options: Dict[str, Any] = {}


#: Names of timm, by family; those whose images have one size only are given it by timm.
TIMM = {
    'timm CNN': (
        'resnet50 resnext50_32x4d seresnet50 resnest26d res2net50_26w_4s skresnet18 ecaresnet26t densenet121 dla34 '
        'dla60_res2net dpn48b dpn68 hrnet_w18_small vgg11_bn xception41 legacy_xception inception_v3 inception_v4 '
        'inception_resnet_v2 nasnetalarge pnasnet5large cspresnet50 cspresnext50 cspdarknet53 darknet53 tresnet_m '
        'selecsls42b ese_vovnet19b_dw regnetx_004 regnety_004 nfnet_l0 dm_nfnet_f0 resnetv2_50 resnetv2_50x1_bit '
        'gernet_s repvgg_a0 hgnet_tiny hgnetv2_b0 convnext_atto convnextv2_atto inception_next_atto mambaout_femto '
        'rdnet_tiny focalnet_tiny_srf gcresnet50t bat_resnext26ts lambda_resnet26t convmixer_768_32 resnet26t '
        'legacy_senet154 cs3darknet_s cspnext_tiny'),
    'timm mobile': (
        'mobilenetv2_100 mobilenetv3_large_100 mobilenetv3_small_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium '
        'mixnet_s mnasnet_100 semnasnet_100 efficientnet_b0 efficientnet_es tf_efficientnetv2_b0 ghostnet_100 '
        'ghostnetv2_100 rexnet_100 fbnetc_100 spnasnet_100 lcnet_050 tinynet_e hardcorenas_a fasternet_t0 '
        'repghostnet_050 repvit_m0_9 starnet_s1 mobileone_s0 mobilenetv1_100'),
    'timm hybrid': (
        'levit_128s levit_conv_128s efficientformer_l1 efficientformerv2_s0 efficientvit_m0 efficientvit_b0 '
        'mobilevit_xxs mobilevitv2_050 edgenext_xx_small fastvit_t8 nextvit_small coat_lite_tiny coatnet_nano_rw_224 '
        'maxxvit_rmlp_nano_rw_256 poolformer_s12 poolformerv2_s12 caformer_s18 convformer_s18 visformer_tiny '
        'swiftformer_xs pvt_v2_b0 sequencer2d_s shvit_s1 tiny_vit_5m_224 botnet26t_256 halonet26t crossvit_tiny_240 '
        'convit_tiny twins_pcpvt_small twins_svt_small gcvit_xxtiny nest_tiny davit_tiny'),
    'timm ViT': (
        'vit_tiny_patch16_224 vit_small_patch32_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 '
        'deit3_small_patch16_224 cait_xxs24_224 beit_base_patch16_224 swin_tiny_patch4_window7_224 '
        'swinv2_tiny_window8_256 swin_s3_tiny_224 xcit_nano_12_p16_224 volo_d1_224 mvitv2_tiny eva02_tiny_patch14_224 '
        'pit_ti_224 tnt_s_patch16_224 hiera_tiny_224 mixer_s32_224 resmlp_12_224 gmixer_12_224 gmlp_ti16_224 '
        'vit_relpos_small_patch16_224 vitamin_small_224 vit_small_resnet26d_224')}
TIMM_SIZES = {'inception_v3': 96, 'inception_v4': 128, 'inception_resnet_v2': 128, 'nasnetalarge': 96,
              'pnasnet5large': 96, 'mobilenetv4_hybrid_medium': 128, 'bat_resnext26ts': 256, 'halonet26t': 256}
#: Name -> configuration class, its arguments, size of the images. Few blocks, since they repeat.
_FEW: Dict[str, Any] = dict(num_hidden_layers=3)
TRANSFORMERS: Dict[str, Tuple[str, Dict[str, Any], int]] = {
    'ViT': ('ViTConfig', _FEW, 224), 'DeiT': ('DeiTConfig', _FEW, 224), 'BEiT': ('BeitConfig', _FEW, 224),
    'Data2VecVision': ('Data2VecVisionConfig', _FEW, 224), 'DINOv2': ('Dinov2Config', _FEW, 224),
    'ViTMSN': ('ViTMSNConfig', _FEW, 224), 'YOLOS': ('YolosConfig', _FEW, 128),
    'Swin': ('SwinConfig', {}, 224), 'Swinv2': ('Swinv2Config', dict(image_size=256), 256),
    'ConvNeXt': ('ConvNextConfig', {}, 128), 'ConvNeXtV2': ('ConvNextV2Config', {}, 128),
    'ResNet': ('ResNetConfig', {}, 128), 'RegNet': ('RegNetConfig', {}, 128), 'BiT': ('BitConfig', {}, 128),
    'MobileNetV1': ('MobileNetV1Config', {}, 128), 'MobileNetV2': ('MobileNetV2Config', {}, 128),
    'MobileViT': ('MobileViTConfig', {}, 256), 'MobileViTV2': ('MobileViTV2Config', {}, 256),
    'PoolFormer': ('PoolFormerConfig', {}, 224), 'LeViT': ('LevitConfig', {}, 224), 'CvT': ('CvtConfig', {}, 224),
    'EfficientNet': ('EfficientNetConfig', dict(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280), 128),
    'PVT': ('PvtConfig', {}, 224), 'PVTv2': ('PvtV2Config', {}, 224), 'FocalNet': ('FocalNetConfig', {}, 224),
    'SwiftFormer': ('SwiftFormerConfig', {}, 224), 'SegFormer': ('SegformerConfig', {}, 128),
    'GLPN': ('GLPNConfig', {}, 128), 'TextNet': ('TextNetConfig', {}, 128), 'Hiera': ('HieraConfig', {}, 224)}
#: Name -> class, arguments.
SEGMENTATION: Dict[str, Tuple[str, Dict[str, Any]]] = {
    **{f'{kind}_resnet18': (kind, dict(encoder_name='resnet18'))
       for kind in ('Unet', 'UnetPlusPlus', 'MAnet', 'Linknet', 'FPN', 'PSPNet', 'PAN', 'DeepLabV3', 'DeepLabV3Plus',
                    'UPerNet', 'Segformer')},
    **{f'{kind}_{encoder}': (kind, dict(encoder_name=encoder)) for kind, encoder in (
        ('FPN', 'dpn68'), ('FPN', 'densenet121'), ('Unet', 'mobilenet_v2'), ('Unet', 'efficientnet-b0'),
        ('Unet', 'mit_b0'), ('Unet', 'se_resnet50'), ('Unet', 'xception'), ('Unet', 'inceptionv4'),
        ('Unet', 'vgg11_bn'), ('DeepLabV3Plus', 'mobilenet_v2'), ('Segformer', 'mit_b0'))},
    'DPT_vit_tiny': ('DPT', dict(encoder_name='tu-vit_tiny_patch16_224', dynamic_img_size=True))}
#: torchvision's transformers -> size; sweep_torchvision.py has all of its classifiers.
TORCHVISION = dict(vit_b_16=224, swin_t=224, swin_v2_t=256, maxvit_t=224)
ULTRALYTICS = ('yolov8n.yaml', 'yolo11n.yaml', 'yolov5n.yaml', 'yolov8n-seg.yaml', 'yolov8n-pose.yaml')


def entries() -> Dict[str, Entry]:
    """Return name -> network, those of installed packages only."""
    found: List[Tuple[str, Entry]] = []
    if importlib.util.find_spec('timm'):
        found += [(name, Entry(family, 'timm', name, TIMM_SIZES.get(name, 0)))
                  for family, names in TIMM.items() for name in names.split()]
    if importlib.util.find_spec('transformers'):
        found += [(f'transformers {name}', Entry('transformers', 'transformers', target, size, options))
                  for name, (target, options, size) in TRANSFORMERS.items()]
    if importlib.util.find_spec('segmentation_models_pytorch'):
        found += [(f'smp {name}', Entry('smp', 'segmentation_models_pytorch', target, 128, options))
                  for name, (target, options) in SEGMENTATION.items()]
    if importlib.util.find_spec('torchvision'):
        found += [(f'torchvision {name}', Entry('torchvision transformers', 'torchvision', name, size))
                  for name, size in TORCHVISION.items()]
    found += [(name, Entry('OpenMMLab transformers', library, name, size))
              for name, (library, _, size) in CONFIGS.items() if importlib.util.find_spec(library)]
    if importlib.util.find_spec('ultralytics'):
        found += [(f'ultralytics {name}', Entry('ultralytics', 'ultralytics', name, 128)) for name in ULTRALYTICS]
    return dict(found)


def build(entry: Entry) -> Tuple[nn.Module, int]:
    """Return a network with random weights, and the height and width of its images."""
    torch.manual_seed(0)
    if entry.package == 'timm':
        return _timm(entry)
    if entry.package == 'transformers':
        import transformers
        name = entry.target[:-len('Config')]
        classifier = getattr(transformers, f'{name}ForImageClassification', None)
        model = classifier or getattr(transformers, f'{name}Model')
        return model(getattr(transformers, entry.target)(**entry.options)), entry.size
    if entry.target in CONFIGS:
        return build_openmmlab(entry.target)
    if entry.package == 'torchvision':
        import torchvision
        return getattr(torchvision.models, entry.target)(), entry.size
    if entry.package == 'ultralytics':
        from ultralytics import YOLO
        return YOLO(entry.target).model, entry.size
    import segmentation_models_pytorch
    return getattr(segmentation_models_pytorch, entry.target)(encoder_weights=None, **entry.options), entry.size


def _timm(entry: Entry) -> Tuple[nn.Module, int]:
    import timm
    model = timm.create_model(entry.target, pretrained=False)
    config = model.default_cfg
    size = entry.size or (config['input_size'][1] if config.get('fixed_input_size') else 128)
    return model, size
