"""One tracing input per model family: how to run a model once, without data."""
from typing import Any, Sequence

import torch
from mmengine.model import BaseModel
from torch import nn

from .registry import TASK_UTILS


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
        parameter = next(model.parameters())
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.input_shape, generator=generator).to(parameter.device, parameter.dtype)

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its raw outputs."""
        x = self.tensor(model)
        return model(x, mode='tensor') if isinstance(model, BaseModel) else model(x)
