"""Demo inputs of detectors that need more than images: regions, or the sizes of what is padded."""
from typing import Any, Dict, List, Mapping, Sequence

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn

from ..arguments import sizes, whole_number
from ..registry import TASK_UTILS
from .demo_input import DemoInput
from .raw_outputs import data_sample

#: Share of the height and of the width of a padded image that is not padding.
NOT_PADDED = 0.75


def has_two_stages(architecture: Mapping[str, Any]) -> bool:
    """Tell whether an architecture is a detector whose second stage reads regions."""
    return 'rpn_head' in architecture and 'roi_head' in architecture


def has_queries(architecture: Mapping[str, Any]) -> bool:
    """Tell whether an architecture is a detector whose queries read the image in a transformer, as in DETR."""
    return 'num_queries' in architecture and 'encoder' in architecture and 'bbox_head' in architecture


def demo_input_of(architecture: Mapping[str, Any], input_shape: Sequence[int]) -> Dict[str, Any]:
    """Return the config of the demo input of an architecture, which is a config too."""
    kind = 'RegionDemoInput' if has_two_stages(architecture) else 'QueryDemoInput' if has_queries(
        architecture) else 'DemoInput'
    return dict(type=f'mmprune.{kind}', input_shape=sizes('input_shape', input_shape))


@TASK_UTILS.register_module()
class RegionDemoInput(DemoInput):
    """Random images and random regions of them, for mmdet's two-stage detectors.

    The second stage reads regions of all sizes instead of the proposals of an untrained first stage, so that it is
    traced on every level and its cost does not depend on the image.

    Args:
        input_shape (tuple[int]): Shape of the images, batch first.
        regions (int): Regions of each image; mmdet's test settings keep 1000.
    """

    def __init__(self, input_shape: Sequence[int] = (1, 3, 1333, 800), regions: int = 1000) -> None:
        super().__init__(input_shape)
        sizes('input_shape', input_shape)
        self.regions = whole_number('regions', regions, most=100_000)

    def __call__(self, model: nn.Module) -> Any:
        """Run both stages and return their raw outputs."""
        image = self.tensor(model)
        levels = model.extract_feat(image)  # type: ignore[operator]
        first = model.rpn_head(levels)  # type: ignore[operator]
        proposals = [InstanceData(bboxes=self._boxes(seed).to(image)) for seed in range(len(image))]
        return first, model.roi_head.forward(levels, proposals, self.data_samples())  # type: ignore[union-attr, operator]

    def _boxes(self, seed: int) -> torch.Tensor:
        """Return ``Tensor[regions, 4]``, corners of boxes from 8 pixels to the whole image."""
        generator = torch.Generator().manual_seed(seed)
        size = torch.tensor([float(self.input_shape[3]), float(self.input_shape[2])])
        extent = 8 * (size / 8) ** torch.rand(self.regions, 2, generator=generator)
        corner = torch.rand(self.regions, 2, generator=generator) * (size - extent)
        return torch.cat([corner, corner + extent], 1)

    def data_samples(self) -> List[BaseDataElement]:
        """Return a data sample for each image, of its size."""
        size = self.input_shape[2:]
        return [data_sample(size, size) for _ in range(self.input_shape[0])]


@TASK_UTILS.register_module()
class QueryDemoInput(DemoInput):
    """Random images with their sizes, for mmdet's detectors with a transformer; it masks what is padded.

    Of several random images all but the first are padded; images that are given (``with_images``) are not.

    Args:
        input_shape (tuple[int]): Shape of the images, batch first.
    """

    def __init__(self, input_shape: Sequence[int] = (1, 3, 1333, 800)) -> None:
        super().__init__(input_shape)
        sizes('input_shape', input_shape)

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its raw outputs."""
        return model(self.tensor(model), self.data_samples(), mode='tensor')

    def data_samples(self) -> List[BaseDataElement]:
        """Return a data sample for each image."""
        count, _, *size = self.input_shape
        smaller = [max(1, round(side * NOT_PADDED)) for side in size]
        return [data_sample(size if place == 0 or self.images is not None else smaller, size)
                for place in range(count)]
