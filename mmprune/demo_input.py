"""One tracing input per model family: how to run a model once, without data."""
import copy
import inspect
import math
from typing import Any, List, Sequence

import torch
from mmengine.model import BaseModel
from torch import nn

from .registry import TASK_UTILS

#: Shorter side of the images of a trial cut.
TRIAL_SIZE = 128


@TASK_UTILS.register_module()
class DemoInput:
    """Random images, for models whose forward takes one tensor.

    Args:
        input_shape (tuple[int]): Shape of the input, batch first; costs are counted for this shape.
    """

    def __init__(self, input_shape: Sequence[int] = (1, 3, 224, 224)) -> None:
        if len(input_shape) < 2 or any(not isinstance(size, int) or size < 1 for size in input_shape):
            raise ValueError(f'input_shape must be positive sizes with the batch first, like (1, 3, 224, 224); '
                             f'it is {tuple(input_shape)}')
        self.input_shape = tuple(input_shape)

    def tensor(self, model: nn.Module) -> torch.Tensor:
        """Return a random input of the model's dtype and device; the global random state is not used."""
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(self.input_shape, generator=generator)
        like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), image)
        return image.to(like.device, like.dtype)

    def for_trial(self) -> List['DemoInput']:
        """Return inputs for the trial cut, the cheapest first; the last has this size and two samples.

        A batch norm behind a global pooling cannot train on one sample, and some models take images of one size.
        """
        batch, *rest = self.input_shape
        sizes = [rest]
        if len(rest) == 3 and min(rest[1:]) > TRIAL_SIZE:
            scale = TRIAL_SIZE / min(rest[1:])
            sizes.insert(0, [rest[0], *(math.ceil(size * scale / 32) * 32 for size in rest[1:])])
        return [self._with_shape((samples, *size)) for size in sizes for samples in (1, max(2, batch))]

    def _with_shape(self, shape: Sequence[int]) -> 'DemoInput':
        other = copy.copy(self)
        other.input_shape = tuple(shape)
        return other

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its raw outputs."""
        x = self.tensor(model)
        if not isinstance(model, BaseModel):
            return model(x)
        unused = {name: None for name in ('data_samples',) if name in inspect.signature(model.forward).parameters}
        return model(x, **unused, mode='tensor')
