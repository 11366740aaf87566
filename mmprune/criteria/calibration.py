"""The data that criteria look at, and running a model on it such that its modes and gradients are restored."""
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from ..arguments import UserError, one_of
from ..graph.demo_input import mapped
from ..units.modes import in_eval
from ..units.mutator import ChannelMutator
from .output_loss import OUTPUTS, OutputLoss


class Calibration(NamedTuple):
    """Data that a criterion looks at.

    Attributes:
        batches (sequence): Batches; a criterion may iterate over them more than once.
        loss (Callable): ``loss(batch) -> Tensor[]``: runs the model on a batch and returns its loss.
        labels (Callable, optional): ``labels(batch) -> LongTensor[N]``: the classes of a batch's images.
    """

    batches: Sequence[Any]
    loss: Callable[[Any], Tensor]
    labels: Optional[Callable[[Any], Tensor]] = None


@contextmanager
def calibrating(model: nn.Module) -> Iterator[None]:
    """Run the block with the model in eval mode and without gradients; restore its modes and gradients after it."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None  # a backward pass adds to the gradient
    try:
        with in_eval(model):
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.grad = gradients.get(name)


@contextmanager
def _switched(parameters: Iterable[nn.Parameter], on: bool) -> Iterator[None]:
    changed = [parameter for parameter in parameters if parameter.is_floating_point() and parameter.requires_grad != on]
    try:
        for parameter in changed:
            parameter.requires_grad_(on)
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(not on)


@contextmanager
def with_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Run the block with gradients switched on, for frozen parameters too."""
    with torch.enable_grad(), _switched(parameters, True):
        yield


@contextmanager
def without_gradients(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Run the block with parameters frozen, so that a backward pass computes no gradients of them."""
    with _switched(parameters, False):
        yield


def backward(loss: Tensor, model: nn.Module) -> None:
    """Run the backward pass of a loss, if it has a graph; parameters outside the model keep their gradients.

    ``torch.autograd.grad`` of some tensors would not do: a checkpoint builds its graph in the backward pass.

    Args:
        loss (Tensor[]): The loss.
        model (nn.Module): The model that is scored.
    """
    if loss.grad_fn is None:
        return
    inside = {id(parameter) for parameter in model.parameters()}
    seen, waiting, outside = {loss.grad_fn}, [loss.grad_fn], []
    while waiting:
        node = waiting.pop()
        leaf = getattr(node, 'variable', None)
        if isinstance(leaf, nn.Parameter) and id(leaf) not in inside:
            outside.append((leaf, leaf.grad))
            leaf.grad = None
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting += following
    loss.backward()
    for leaf, gradient in outside:
        leaf.grad = gradient


class LossOf:
    """The loss of a batch ``(inputs, targets)``; zero where no loss function is given.

    Args:
        mutator (ChannelMutator): Of the model.
        loss_fn (Callable or str, optional): ``loss_fn(outputs, targets) -> Tensor[]``, or ``outputs`` for
            :class:`~mmprune.criteria.output_loss.OutputLoss`, which looks at no targets.

    Raises:
        UserError: ``loss_fn`` is another string.
    """

    def __init__(self, mutator: ChannelMutator, loss_fn: Union[None, str, Callable[[Any, Any], Tensor]]) -> None:
        self.mutator = mutator
        self.of_outputs = OutputLoss() if isinstance(loss_fn, str) and one_of('loss_fn', loss_fn, (OUTPUTS, )) else None
        self.loss_fn = None if isinstance(loss_fn, str) else loss_fn

    def __call__(self, batch: Any) -> Tensor:
        """Run the model on a batch and return its loss."""
        inputs = self._placed(batch[0] if isinstance(batch, (tuple, list)) else batch)
        model = self.mutator.model
        outputs = (model(**inputs) if isinstance(inputs, Mapping) else
                   model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs))
        if self.of_outputs is not None:
            return self.of_outputs(outputs)
        if self.loss_fn is None:
            if torch.is_grad_enabled():
                raise UserError('the criterion needs the gradient of a loss: call calibrate(loader, loss_fn)')
            return torch.zeros(())
        loss = self.loss_fn(outputs, self.targets(batch))
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f'a Tensor of shape {tuple(loss.shape)}' if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f'loss_fn returned {what}; it must return one number as a Tensor, a mean over the samples')
        return loss

    def targets(self, batch: Any) -> Any:
        """Return the targets of a batch, on the model's device."""
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise UserError(f'a batch is {type(batch).__name__}; where targets are needed it must be (inputs, '
                            'targets)')
        return self._placed(batch[1])

    def _placed(self, value: Any) -> Any:
        device = next((parameter.device for parameter in self.mutator.model.parameters()), torch.device('cpu'))
        return mapped(value, lambda tensor: tensor.to(device))
