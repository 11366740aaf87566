"""What differs between versions of torch, from 2.0 on."""
import torch
from torch import Tensor

#: Major and minor version.
TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])
#: Whether ``F.scaled_dot_product_attention`` takes a scale.
TAKES_A_SCALE = TORCH >= (2, 1)


def is_autocast(x: Tensor) -> bool:
    """Tell whether operations on the device of a tensor are cast automatically."""
    if TORCH >= (2, 4):
        return torch.is_autocast_enabled(x.device.type)
    return torch.is_autocast_cpu_enabled() if x.device.type == 'cpu' else torch.is_autocast_enabled()
