"""The small ResNets for CIFAR: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (section 4.2)."""
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..arguments import UserError, whole_number
from ..registry import MODELS

#: Channels of the three stages.
WIDTHS = (16, 32, 64)
InitCfg = Union[None, Dict[str, Any], List[Dict[str, Any]]]


@MODELS.register_module()
class CifarResNet(BaseModule):
    """Backbone of ``6n + 2`` layers: a 3x3 stem and three stages of ``n`` basic blocks, of 16, 32 and 64 channels.

    Where the shape changes, the shortcut is a 1x1 convolution with a norm.

    Args:
        depth (int): 20, 32, 44, 56, 110 or another ``6n + 2``.
        in_channels (int): Channels of the images.
        init_cfg (dict or list[dict], optional): Kaiming's initialisation by default.

    Raises:
        UserError: The depth is not ``6n + 2``.
    """

    def __init__(self, depth: int = 20, in_channels: int = 3, init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg or [dict(type='Kaiming', layer='Conv2d'),
                                      dict(type='Constant', val=1, layer='BatchNorm2d')])
        must = 'a CifarResNet has 6n + 2 layers: 20, 32, 44, 56, 110'
        if whole_number('depth', depth, 8, must, most=2000) % 6 != 2:
            raise UserError(f'depth is {depth}; {must}')
        whole_number('in_channels', in_channels, most=4096)
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        for number, (channels, width) in enumerate(zip((WIDTHS[0], *WIDTHS), WIDTHS)):
            blocks = [BasicBlock(channels, width, 1 if number == 0 else 2)]
            blocks += [BasicBlock(width, width) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f'layer{number + 1}', nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tuple[Tensor]:
        """Return the last feature map ``(Tensor[N, 64, H / 4, W / 4],)`` of images ``Tensor[N, in_channels, H, W]``."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x))),


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first convolution and the shortcut have the stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: Optional[nn.Module] = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                                            nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``Tensor[N, out_channels, H / stride, W / stride]`` for ``Tensor[N, in_channels, H, W]``."""
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))
