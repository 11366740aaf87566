"""Small networks with the structures of detectors and pose estimators; their units are written by hand in the tests.

Those of the first half run everywhere, those of the second are made of mmdet's, mmpose's and mmcv's own parts.
"""
import torch
from mmengine.registry import DefaultScope
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Pyramid(nn.Module):
    """Two levels, laterals added from the top down, one head on both."""

    def __init__(self):
        super().__init__()
        self.c3, self.c4 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 7, 3, stride=2, padding=1)
        self.l3, self.l4 = nn.Conv2d(6, 5, 1), nn.Conv2d(7, 5, 1)
        self.f3, self.f4 = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
        self.tower, self.bn, self.cls = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        c3 = torch.tanh(self.c3(x))
        top = self.l4(torch.tanh(self.c4(c3)))
        bottom = self.l3(c3) + F.interpolate(top, scale_factor=2.0)
        return [self.cls(F.silu(self.bn(self.tower(level)))) for level in (self.f3(bottom), self.f4(top))]


class CrossStage(nn.Module):
    """A cross stage partial block: a residual half and a short half, concatenated."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.main, self.bn, self.short = nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(6, 5, 1)
        self.conv1, self.conv2 = nn.Conv2d(4, 3, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.final, self.head = nn.Conv2d(9, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = F.silu(self.stem(x))
        main, short = F.silu(self.bn(self.main(x))), F.silu(self.short(x))
        main = main + F.silu(self.conv2(F.silu(self.conv1(main))))
        return self.head(F.silu(self.final(torch.cat([main, short], 1))))


class Regions(nn.Module):
    """A convolution on the images, linear layers on pooled regions ``(image, top, bottom, left, right)`` of them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.rpn, self.out = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.fc1, self.fc2, self.fc3 = nn.Linear(20, 7), nn.Linear(7, 3), nn.Linear(20, 2)
        self.regions = [(0, 0, 8, 0, 8), (0, 2, 6, 2, 8), (0, 4, 8, 0, 4)]

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        first = self.out(torch.tanh(self.rpn(x)))
        pooled = [F.adaptive_avg_pool2d(x[i:i + 1, :, top:bottom, left:right], 2)
                  for i, top, bottom, left, right in self.regions]
        pooled = torch.cat(pooled).flatten(1) if pooled else x.new_zeros(0, 4 * x.size(1)) + 0 * x.sum()
        return [first, self.fc2(torch.tanh(self.fc1(pooled))), self.fc3(pooled)]


class RetinaNet(nn.Module):
    """Two convolutions, mmdet's FPN with an extra level, mmdet's RetinaHead on three levels."""

    @DefaultScope.overwrite_default_scope('mmdet')  # its parts are built by type, whatever ran before
    def __init__(self):
        from mmdet.models.dense_heads import RetinaHead
        from mmdet.models.necks import FPN
        super().__init__()
        self.c3, self.c4 = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 7, 3, stride=2, padding=1)
        self.neck = FPN([6, 7], 5, 3, add_extra_convs='on_output')
        self.head = RetinaHead(num_classes=2, in_channels=5, feat_channels=4, stacked_convs=1)

    def forward(self, x):
        c3 = torch.tanh(self.c3(x))
        scores, boxes = self.head(self.neck((c3, torch.tanh(self.c4(c3)))))
        return [*scores, *boxes]


class CSPNet(nn.Module):
    """mmdet's CSPLayer between two convolutions."""

    @DefaultScope.overwrite_default_scope('mmdet')  # its parts are built by type, whatever ran before
    def __init__(self):
        from mmdet.models.layers import CSPLayer
        super().__init__()
        self.stem, self.csp, self.head = nn.Conv2d(3, 6, 3, padding=1), CSPLayer(6, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.head(self.csp(F.silu(self.stem(x))))


class RCNN(nn.Module):
    """Two levels under one first stage, mmdet's region extractor, mmdet's box head; ``rois`` as in mmdet."""

    @DefaultScope.overwrite_default_scope('mmdet')  # its parts are built by type, whatever ran before
    def __init__(self):
        from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
        from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.p1, self.p2 = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(6, 5, 3, stride=2, padding=1)
        self.rpn, self.rpn_cls = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.extractor = SingleRoIExtractor(dict(type='RoIAlign', output_size=3, sampling_ratio=2), 5, [1, 2],
                                            finest_scale=4)
        self.box = Shared2FCBBoxHead(in_channels=5, fc_out_channels=7, roi_feat_size=3, num_classes=2)
        self.rois = torch.tensor([[0, 1, 1, 5, 5], [0, 0, 0, 15, 15], [0, 2.5, 3, 8, 7], [0, 4, 4, 16, 12]])

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        levels = [torch.tanh(self.p1(x)), torch.tanh(self.p2(x))]
        first = [self.rpn_cls(torch.tanh(self.rpn(level))) for level in levels]
        return [*first, *self.box(self.extractor(levels, self.rois.to(x)))]


class SimCC(nn.Module):
    """Two convolutions and mmpose's RTMCCHead: its final conv, a flatten, its gated attention."""

    @DefaultScope.overwrite_default_scope('mmpose')  # its parts are built by type, whatever ran before
    def __init__(self):
        from mmpose.models.heads import RTMCCHead
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head = RTMCCHead(
            in_channels=8, out_channels=4, input_size=(16, 16), in_featuremap_size=(8, 8), final_layer_kernel_size=7,
            gau_cfg=dict(hidden_dims=16, s=8, expansion_factor=2, dropout_rate=0.0, drop_path=0.0, act_fn='SiLU',
                         use_rel_bias=False, pos_enc=False))

    def forward(self, x):
        return list(self.head((F.silu(self.conv(F.silu(self.stem(x)))),)))


class Deformable(nn.Module):
    """mmcv's deformable convolutions: offsets of its own, and modulated ones in two blocks of channels."""

    def __init__(self):
        from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
        super().__init__()
        self.stem, self.plain = nn.Conv2d(3, 6, 3, padding=1), DeformConv2dPack(6, 8, 3, padding=1)
        self.modulated = ModulatedDeformConv2dPack(8, 5, 3, padding=1, deform_groups=2)
        self.head = nn.Conv2d(5, 3, 1)
        for conv in (self.plain.conv_offset, self.modulated.conv_offset):  # they start at zero
            nn.init.normal_(conv.weight, 0.0, 0.1)

    def forward(self, x):
        x = torch.tanh(self.plain(torch.tanh(self.stem(x))))
        return self.head(torch.tanh(self.modulated(x)))
