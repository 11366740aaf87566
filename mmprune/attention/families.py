"""The forwards of all known attentions: importing this registers them."""
from . import timm, timm_biases, timm_mixing, timm_reduced, timm_windows, torch_multihead, torchvision  # noqa: F401
