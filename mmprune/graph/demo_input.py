"""Demo inputs: how to run a model of each family once, without data."""
import copy
import math
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from ..arguments import UserError, short, sizes
from ..registry import TASK_UTILS, build
from .nested import output_tensors
from .raw_outputs import raw_outputs

#: Shorter side of the images of a trial cut.
TRIAL_SIZE = 128


@TASK_UTILS.register_module()
class DemoInput:
    """Random images, for models whose forward takes one tensor.

    Args:
        input_shape (tuple[int]): Shape of the input, batch first; costs are counted for this shape.
        arguments (dict, optional): Further keyword arguments of the model's forward, such as ``dict(aux=True)``.

    Attributes:
        images (Tensor[N, C, H, W] or None): Images to run on instead of random ones; auxiliary heads run on them, too.
    """

    images: Optional[torch.Tensor] = None

    def __init__(self, input_shape: Sequence[int] = (1, 3, 224, 224),
                 arguments: Optional[Mapping[str, Any]] = None) -> None:
        self.input_shape = sizes('input_shape', input_shape, images=False)
        self.arguments = dict(arguments or {})

    def tensor(self, model: nn.Module) -> torch.Tensor:
        """Return a random input of the model's dtype and device; the global random state is not used."""
        if self.images is not None:
            return _like_parameters(model, self.images)
        image = torch.randn(self.input_shape, generator=torch.Generator().manual_seed(0))
        return _like_parameters(model, image)

    def for_trial(self) -> List['DemoInput']:
        """Return inputs for the trial cut, the cheapest first; the last has this size and two samples.

        Batch norm behind global pooling cannot train on one sample; some models take images of one size only.
        """
        batch, *rest = self.input_shape
        sizes = [rest]
        if len(rest) == 3 and min(rest[1:]) > TRIAL_SIZE:
            sizes.insert(0, [rest[0], *trial_size(*rest[1:])])
        return [self.with_shape((samples, *size)) for size in sizes for samples in (1, max(2, batch))]

    def with_shape(self, shape: Sequence[int]) -> 'DemoInput':
        """Return a demo input of the same kind with another shape ``(N, C, H, W)``."""
        other = copy.copy(self)
        other.input_shape, other.images = tuple(shape), None
        return other

    def with_images(self, images: torch.Tensor) -> 'DemoInput':
        """Return a demo input of the same kind that runs a model on some images ``Tensor[N, C, H, W]``."""
        other = self.with_shape(images.shape)
        other.images = images
        return other

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its raw outputs."""
        return raw_outputs(model, self.tensor(model), self.arguments, auxiliary=self.images is not None)


@TASK_UTILS.register_module()
class ExampleInputs:
    """Inputs that the caller gives, for models of any signature.

    Args:
        inputs (Tensor, tuple, dict or Callable): One tensor, positional or keyword arguments of the model. Tensors of
            floats follow its dtype, all its device. Something to call, such as a demo input, runs the model itself.

    Attributes:
        stands_for (ExampleInputs or None): The given inputs, if these are a part of their images.
    """

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs
        self.stands_for: Optional[ExampleInputs] = None

    def for_trial(self) -> List['ExampleInputs']:
        """Return inputs for the trial cut, the cheapest first: parts of large images, these, and two samples.

        Samples differ from one another, and are made where these do not.
        """
        smaller = self._smaller()
        return [*([] if smaller is None else smaller._samples()), *self._samples()]

    def _samples(self) -> List['ExampleInputs']:
        rows = {len(tensor) for tensor in output_tensors(self.inputs) if tensor.dim()}
        if rows == {1}:
            return [self, self._with(mapped(self.inputs, lambda tensor: _joined(tensor, tensor)))]
        alike = len(rows) == 1 and all(bool((tensor == tensor[:1]).all()) for tensor in output_tensors(self.inputs)
                                       if tensor.dim())
        return [self._with(mapped(self.inputs, lambda tensor: _joined(tensor[:1], tensor[1:])))] if alike else [self]

    def _smaller(self) -> Optional['ExampleInputs']:
        """Return the upper left part of images, if the inputs are images of one size that is larger than a trial's."""
        tensors = output_tensors(self.inputs)
        sizes = {tuple(tensor.shape[2:]) for tensor in tensors}
        if not all(tensor.dim() == 4 and tensor.is_floating_point() for tensor in tensors) or len(sizes) != 1 \
                or min(*next(iter(sizes))) <= TRIAL_SIZE:
            return None
        height, width = trial_size(*sizes.pop())
        part = ExampleInputs(mapped(self.inputs, lambda tensor: tensor[..., :height, :width]))
        part.stands_for = self
        return part

    def _with(self, inputs: Any) -> 'ExampleInputs':
        other = ExampleInputs(inputs)
        other.stands_for = self.stands_for
        return other

    def __call__(self, model: nn.Module) -> Any:
        """Run the model and return its raw outputs."""
        if callable(self.inputs):
            return self.inputs(model)
        inputs = mapped(self.inputs, lambda tensor: _like_parameters(model, tensor))
        if isinstance(inputs, Mapping):
            return model(**inputs)
        if isinstance(inputs, (tuple, list)):
            return model(*inputs)
        return raw_outputs(model, inputs)


def check_inputs(inputs: Any) -> None:
    """Raise UserError unless there is a tensor among the inputs of a model and no array of numpy, or a function."""
    if callable(inputs) and not isinstance(inputs, nn.Module):
        return
    values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    arrays = [value for value in (values if isinstance(values, (list, tuple)) else [values])
              if isinstance(value, np.ndarray)]
    if arrays:
        raise UserError(f'example_inputs has an array of numpy of shape {arrays[0].shape}; the model takes tensors: '
                        'torch.from_numpy makes one of it')
    if any(tensor.is_meta for tensor in output_tensors(inputs)):
        raise UserError('example_inputs has a tensor without values (device meta); the model runs on it: torch.randn '
                        'makes one')
    if not output_tensors(inputs):
        raise UserError(f'example_inputs is {short(inputs)}; it must be a tensor, a tuple of positional or a dict of '
                        'keyword arguments of the model, with a tensor among them, or a function that runs the model')


def trial_size(height: int, width: int) -> Tuple[int, int]:
    """Return the height and width of the images of a trial cut, multiples of 32 at about the same ratio."""
    scale = TRIAL_SIZE / min(height, width)
    return math.ceil(height * scale / 32) * 32, math.ceil(width * scale / 32) * 32


def build_demo_input(cfg: Union[None, Mapping[str, Any], Sequence[Mapping[str, Any]]]) -> Any:
    """Build a demo input from its config, several from a list of configs, and by default random images."""
    several = list(cfg) if isinstance(cfg, (list, tuple)) else [cfg]
    if len(several) > 1:
        return SeveralInputs(several)
    return build(TASK_UTILS, (several or [None])[0] or dict(type='DemoInput'))


def _like_parameters(model: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the device of a model's parameters, and in their dtype if it is of floats."""
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.zeros(()))
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)


def _joined(first: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return rows that differ from one another: a batch norm over 1 x 1 maps sees no variance in rows that are alike.

    The others become the values of the first in another order, scaled at random. Integers are repeated as they are, and
    so are masks, which hold 0 and 1 only, both of them.
    """
    if not first.dim():
        return first
    values = first.detach()
    if values.is_floating_point() and not _is_mask(values):
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(others.numel(), generator=generator).view(others.shape)
        scale = (1 + 0.2 * torch.randn(others.shape, generator=generator)).clamp(0.5, 1.5)
        others = others.detach().reshape(-1)[order.to(values.device)] * scale.to(values)
    return torch.cat([values, others.to(values)])


def _is_mask(values: torch.Tensor) -> bool:
    return bool(((values == 0) | (values == 1)).all()) and bool((values == 0).any()) and bool((values == 1).any())


def mapped(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Return nested lists, tuples and dicts with a function applied to every tensor."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, function) for key, item in value.items()}
    if not isinstance(value, (list, tuple)):
        return value
    items = [mapped(item, function) for item in value]
    return type(value)(*items) if hasattr(value, '_fields') else type(value)(items)


@TASK_UTILS.register_module()
class SeveralInputs:
    """Several demo inputs, for a model with branches that one of them does not take; they are traced as one.

    Args:
        inputs (list): Demo inputs, or their configs. Costs are those of the first; of the others only those layers
            count that no earlier one runs.

    Attributes:
        stands_for (SeveralInputs or None): The given inputs, if these are parts of their images.
    """

    def __init__(self, inputs: Sequence[Any]) -> None:
        if not isinstance(inputs, (list, tuple)) or not inputs or not all(
                callable(one) or isinstance(one, Mapping) for one in inputs):
            raise UserError(f'inputs is {short(inputs)}; it must be a list of demo inputs or their configs, of one at '
                            'least')
        self.examples = [build(TASK_UTILS, dict(one)) if isinstance(one, Mapping) else one for one in inputs]
        self.stands_for: Optional[SeveralInputs] = None

    def for_trial(self) -> List['SeveralInputs']:
        """Return what each input offers for the trial cut, the cheapest first."""
        offered = [one.for_trial() if hasattr(one, 'for_trial') else [one] for one in self.examples]
        most = max(map(len, offered))
        found = [SeveralInputs([each[min(place, len(each) - 1)] for each in offered]) for place in range(most)]
        for one in found:
            parts = any(getattr(example, 'stands_for', None) is not None for example in one.examples)
            one.stands_for = self if parts else None
        return found

    def with_images(self, images: torch.Tensor) -> 'SeveralInputs':
        """Return the same inputs on some images ``Tensor[N, C, H, W]``; those that take none are left as they are."""
        return SeveralInputs([one.with_images(images) if hasattr(one, 'with_images') else one for one in self.examples])

    def __call__(self, model: nn.Module) -> List[Any]:
        """Run the model on every input and return all raw outputs."""
        return [one(model) for one in self.examples]
