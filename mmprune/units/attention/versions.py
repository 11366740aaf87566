"""What differs between versions of torch, from 2.0 on."""
import torch

#: Major and minor version.
TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])
#: Whether ``F.scaled_dot_product_attention`` takes a scale.
TAKES_A_SCALE = TORCH >= (2, 1)
