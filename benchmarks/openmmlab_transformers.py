"""Transformers of mmpretrain, mmdet and mmseg as their own configs describe them, called with a batch of images."""
from typing import Any, Dict, List, Tuple

from torch import Tensor, nn

#: Name -> library, its config, height and width of the images. Not XCiT, which runs in float32 alone.
CONFIGS: Dict[str, Tuple[str, str, int]] = {
    f'{library} {name}': (library, f'{folder}/{config}.py', size) for library, name, folder, config, size in (
        ('mmpretrain', 'DeiT-T', 'deit', 'deit-tiny_4xb256_in1k', 224),
        ('mmpretrain', 'DeiT-T distilled', 'deit', 'deit-tiny-distilled_4xb256_in1k', 224),
        ('mmpretrain', 'DeiT3-S', 'deit3', 'deit3-small-p16_64xb64_in1k', 224),
        ('mmpretrain', 'Swin-T', 'swin_transformer', 'swin-tiny_16xb64_in1k', 224),
        ('mmpretrain', 'SwinV2-T', 'swin_transformer_v2', 'swinv2-tiny-w8_16xb64_in1k-256px', 256),
        ('mmpretrain', 'T2T-ViT-14', 't2t_vit', 't2t-vit-t-14_8xb64_in1k', 224),
        ('mmpretrain', 'TinyViT-5M', 'tinyvit', 'tinyvit-5m_8xb256_in1k', 224),
        ('mmpretrain', 'Twins-SVT-S', 'twins', 'twins-svt-small_8xb128_in1k', 224),
        ('mmpretrain', 'Twins-PCPVT-S', 'twins', 'twins-pcpvt-small_8xb128_in1k', 224),
        ('mmpretrain', 'DaViT-T', 'davit', 'davit-tiny_4xb256_in1k', 224),
        ('mmdet', 'DETR-R18', 'detr', 'detr_r18_8xb2-500e_coco', 128),
        ('mmdet', 'Deformable DETR', 'deformable_detr', 'deformable-detr_r50_16xb2-50e_coco', 128),
        ('mmdet', 'RetinaNet-Swin-T', 'swin', 'retinanet_swin-t-p4-w7_fpn_1x_coco', 128),
        ('mmdet', 'RetinaNet-PVTv2-B0', 'pvt', 'retinanet_pvtv2-b0_fpn_1x_coco', 128),
        ('mmseg', 'SegFormer-B0', 'segformer', 'segformer_mit-b0_8xb2-160k_ade20k-512x512', 128),
        ('mmseg', 'Segmenter-T', 'segmenter', 'segmenter_vit-t_mask_8xb1-160k_ade20k-512x512', 128),
        ('mmseg', 'UPerNet-Swin-T', 'swin',
         'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512', 128),
        ('mmseg', 'FPN-Twins-SVT-S', 'twins', 'twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512', 128))}


class QueryDetector(nn.Module):
    """A detector with queries: images alone go in, logits and boxes of every layer of the decoder come out.

    Args:
        model (nn.Module): ``DetectionTransformer`` of mmdet.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> List[Tensor]:
        """Return logits and boxes for images ``Tensor[N, 3, H, W]``."""
        from mmdet.structures import DetDataSample
        size = tuple(images.shape[-2:])
        samples = [DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=size)) for _ in images]
        given = self.model.forward_transformer(self.model.extract_feat(images), samples)
        names = self.model.bbox_head.forward.__code__.co_varnames
        return [*self.model.bbox_head(**{name: value for name, value in given.items() if name in names})]


def build_openmmlab(name: str) -> Tuple[nn.Module, int]:
    """Return a network with random weights, and the height and width of its images.

    Args:
        name (str): Of :data:`CONFIGS`.
    """
    import importlib.util

    from mmengine.hub import get_config
    from mmengine.registry import MODELS, DefaultScope
    library, config, size = CONFIGS[name]
    if importlib.util.find_spec('mmpretrain'):  # its language models do not import beside transformers 5
        importlib.import_module('mmpretrain.utils.dependency').WITH_MULTIMODAL = False
    described = get_config(f'{library}::{config}').model
    _without_weights(described)
    with DefaultScope.overwrite_default_scope(library):
        importlib.import_module(f'{library}.models')
        model = MODELS.build(described)
    return (QueryDetector(model) if hasattr(model, 'forward_transformer') else model), size


def _without_weights(described: Any) -> None:
    """Leave a config nothing to load, and batch norms that need no other process."""
    described.pop('pretrained', None)
    for value in [described, *(part for part in described.values() if isinstance(part, dict))]:
        value.pop('init_cfg', None)
        if isinstance(value.get('norm_cfg'), dict) and value['norm_cfg'].get('type') == 'SyncBN':
            value['norm_cfg'] = dict(type='BN')
