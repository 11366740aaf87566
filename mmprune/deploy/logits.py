"""Class scores are compared as logits: a softmax or a sigmoid hides differences that the logits show.

Scores say what the logits were, up to a constant for a softmax. The softmax of a confident network hardly changes when
its logits are 1 % off; the logarithms of the scores do.
"""
import math
import weakref
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..graph.nested import output_tensors
from ..units.equivalence import relative_difference

EPSILON = torch.finfo(torch.float32).eps
SMALLEST = 1e-37  # scores below are 0 in float32, or lose their digits
LEAST_RANGE = 0.05  # logits that differ by less are measured as if they differed so much: scores have float32's digits


class ScoreFunction(NamedTuple):
    """The function that an output ends in."""

    name: str  # softmax or sigmoid
    dim: int = 1  # of the classes

    @classmethod
    def of_call(cls, func: Any, args: Tuple[Any, ...], kwargs: Any) -> Optional['ScoreFunction']:
        """Return the function of a call of torch's, None if it is another."""
        name = getattr(func, '__name__', '')
        if name in ('sigmoid', 'special_expit'):
            return cls('sigmoid')
        dim = args[1] if len(args) > 1 else (kwargs or {}).get('dim')
        return cls('softmax', dim) if name == 'softmax' and isinstance(dim, int) else None


Functions = Sequence[Optional[ScoreFunction]]


class _Watch(TorchFunctionMode):
    """Remembers which tensors are scores."""

    def __init__(self) -> None:
        super().__init__()
        self._scores: List[Tuple[Any, ScoreFunction]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        function = ScoreFunction.of_call(func, args, kwargs)
        if function is not None and isinstance(result, Tensor):
            self._scores.append((weakref.ref(result), function))
        return result

    def function_of(self, tensor: Tensor) -> Optional[ScoreFunction]:
        """Return what a tensor is the result of, if that is a score function."""
        return next((function for score, function in self._scores if score() is tensor), None)


def run(model: nn.Module, x: Tensor) -> Tuple[List[Tensor], List[Optional[ScoreFunction]]]:
    """Run a model without gradients; return its outputs, and for each the softmax or sigmoid that it ends in."""
    with torch.no_grad(), _Watch() as watch:
        outputs = output_tensors(model(x))
    return [output.cpu() for output in outputs], [watch.function_of(output) for output in outputs]


def difference(wanted: Sequence[Tensor], found: Sequence[Tensor], functions: Functions) -> float:
    """Return the largest relative difference of two lists of outputs, that of logits where they are scores.

    Args:
        wanted (list[Tensor]): Outputs in float32 or float64.
        found (list[Tensor]): Those of another model.
        functions (list[ScoreFunction | None]): What each output ends in.

    Returns:
        float: The largest difference over the largest value of an output; inf if shapes differ.
    """
    if [output.shape for output in wanted] != [output.shape for output in found]:
        return math.inf
    return max((_of_output(*output) for output in zip(wanted, found, functions)), default=0.0)


def _of_output(wanted: Tensor, found: Tensor, function: Optional[ScoreFunction]) -> float:
    if function is None or not wanted.numel():
        return relative_difference([wanted], [found])
    gap = float((wanted.double() - found.double()).abs().max())
    return max(gap, logit_difference(wanted, found, function)) if math.isfinite(gap) else math.inf


def where(wanted: Sequence[Tensor], found: Sequence[Tensor], functions: Functions) -> str:
    """Say which output of onnxruntime differs most from PyTorch's, by how much and at which value."""
    shapes = [tuple(output.shape) for output in wanted], [tuple(output.shape) for output in found]
    if shapes[0] != shapes[1]:
        return f'onnxruntime and PyTorch differ by inf: shapes {shapes[0]} in PyTorch, {shapes[1]} in onnxruntime'
    gaps = [_of_output(*output) for output in zip(wanted, found, functions)]
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    left, right, function = wanted[worst].double(), found[worst].double(), functions[worst]
    place = int((left - right).abs().nan_to_num(nan=math.inf).argmax())
    index = ', '.join(str(int(i)) for i in np.unravel_index(place, left.shape))
    kind = 'output' if function is None else f'logit before the {function.name}'
    return (f'onnxruntime and PyTorch differ by {gaps[worst]:.3g} relative to the largest {kind}; farthest apart is '
            f'[{index}] of output {worst}, {float(right.flatten()[place]):.6g} in onnxruntime and '
            f'{float(left.flatten()[place]):.6g} in PyTorch')


def logit_difference(wanted: Tensor, found: Tensor, function: ScoreFunction) -> float:
    """Return how far the logits of two tensors of finite scores are apart, relative to those of the first.

    A softmax knows no constant that is added to all logits, so half the range of the differences of one image is taken
    over half the range of its logits. onnxruntime's sigmoid is exact to float32's digits of 1, not of the score: what
    such an error makes of a logit does not count.
    """
    wanted, found = wanted.double(), found.double()
    if function.name == 'softmax':
        left, right = (scores.clamp(min=SMALLEST).log() for scores in (wanted, found))
        gap, scale = _range(left - right, function.dim) / 2, _range(left, function.dim) / 2
    else:
        left, right = (torch.logit(scores, eps=EPSILON / 2) for scores in (wanted, found))
        error = 4 * EPSILON / (wanted * (1 - wanted)).clamp(min=SMALLEST)
        images = (len(wanted) if wanted.dim() else 1, -1)
        gap = ((left - right).abs() - error).clamp(min=0).reshape(images).amax(dim=1)
        scale = left.abs().reshape(images).amax(dim=1)
    return float((gap / scale.clamp(min=LEAST_RANGE)).max())


def _range(logits: Tensor, dim: int) -> Tensor:
    return logits.amax(dim=dim) - logits.amin(dim=dim)
