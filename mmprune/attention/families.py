"""The forwards of all known attentions: importing this registers them."""
from . import (  # noqa: F401
    deformable,
    gated_unit,
    huggingface,
    huggingface_pyramid,
    huggingface_text,
    mmdet,
    mmpretrain,
    timm,
    timm_biases,
    timm_blocks,
    timm_mixing,
    timm_places,
    timm_reduced,
    timm_windows,
    torch_multihead,
    torchvision,
)
