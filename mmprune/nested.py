"""Tensors inside nested values."""
from typing import Any, List

from torch import Tensor, nn


def output_tensors(value: Any) -> List[Tensor]:
    """Return the tensors in a nested output of lists, tuples, dicts and objects with tensor attributes."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in output_tensors(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in output_tensors(item)]
    if hasattr(value, '__dict__') and not isinstance(value, (type, nn.Module)) and not callable(value):
        return output_tensors(vars(value))  # a dataclass, a data element
    return []
