"""A loss that needs no labels: how much the outputs of a model change."""
from typing import Any

import torch
from torch import Tensor

from ..arguments import UserError
from ..graph.nested import output_tensors

#: What asks for it where a loss function is expected.
OUTPUTS = 'outputs'


class OutputLoss:
    """A sum of the outputs with random signs, drawn anew for each of them and each sample.

    The expected square of its derivative is the sum over all outputs of their squared derivatives, since signs of
    different outputs cancel: the diagonal of the Gauss-Newton matrix of the squared error of the outputs (Schraudolph,
    Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, 2002), by the estimator of Bekas et al., An
    estimator for the diagonal of a matrix, 2007. A criterion of squared gradients so measures what the outputs lose,
    on images of whatever classes.

    Args:
        seed (int): Of the signs.
    """

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, outputs: Any) -> Tensor:
        """Return ``Tensor[]``, the mean over the samples.

        Args:
            outputs (Tensor[N, *], or tensors in lists, dicts and objects): What the model returns.

        Raises:
            UserError: There is no tensor of floating-point numbers with samples in its first axis.
        """
        found = [tensor for tensor in output_tensors(outputs)
                 if tensor.is_floating_point() and tensor.dim() and tensor.numel()]
        if not found:
            raise UserError(f'loss_fn={OUTPUTS!r} needs outputs that are tensors with samples in their first axis, and '
                            f'the model returns {type(outputs).__name__}: give a loss function')
        parts = [(tensor * self._signs(tensor)).sum() / len(tensor) for tensor in found]
        return torch.stack([part.to(parts[0]) for part in parts]).sum()

    def _signs(self, like: Tensor) -> Tensor:
        drawn = torch.randint(0, 2, like.shape, generator=self._generator, dtype=torch.int8)
        return (2 * drawn - 1).to(like)
