"""One axis as several, by operations that every version of ONNX has."""
from typing import Sequence

from torch import Tensor


def split_axis(x: Tensor, axis: int, sizes: Sequence[int]) -> Tensor:
    """Return a tensor with an axis as several; one of the sizes may be -1.

    ``Tensor.unflatten``, which ONNX has from version 13 on only.
    """
    axis %= x.dim()
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1:])
