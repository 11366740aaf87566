"""A data set of boxes whose images have another size on every rank, imported by the config of a run."""
import torch
from mmengine import dist
from mmengine.structures import InstanceData

from mmprune.registry import DATASETS

#: Height and width on rank 0, 1.
SIZES = ((64, 96), (128, 64))


@DATASETS.register_module()
class UnevenBoxes:
    """Random images, each with a box that is brighter than the rest, its class the channel that is.

    Args:
        length (int): Images in all.
    """

    metainfo = dict(classes=('red', 'green', 'blue'))

    def __init__(self, length=16):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        from mmdet.structures import DetDataSample
        height, width = SIZES[dist.get_rank()]
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 100, (3, height, width), generator=generator, dtype=torch.uint8)
        top, left, label = (int(torch.randint(limit, (), generator=generator)) for limit in (32, 32, 3))
        image[label, top:top + 30, left:left + 30] += 100
        boxes = torch.tensor([[left, top, left + 30.0, top + 30.0]])
        sample = DetDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width), img_id=index,
                                             scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([label]))
        return dict(inputs=image, data_samples=sample)
