"""Find tensors inside nested values."""
import types
from collections.abc import Iterable, Mapping
from typing import Any, List, Optional, Set

from torch import Tensor, nn

OPAQUE = (str, bytes, type, nn.Module, types.FunctionType, types.MethodType, types.BuiltinFunctionType)


def output_tensors(value: Any, seen: Optional[Set[int]] = None) -> List[Tensor]:
    """Return the tensors in nested lists, dicts and other collections, and in the attributes of objects.

    What a language model keeps of earlier tokens for its next call, an object of a class ``...Cache``, is no output.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, OPAQUE) or id(value) in seen or type(value).__name__.endswith('Cache'):
        return []
    if isinstance(value, Mapping):
        items = list(value.values())
    elif isinstance(value, Iterable) and hasattr(value, '__len__'):  # an iterator would be used up
        items = list(value)
    else:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, '__slots__', ())]
        items = [*getattr(value, '__dict__', {}).values(),
                 *(getattr(value, name) for name in slots if isinstance(name, str) and hasattr(value, name))]
    seen.add(id(value))
    return [tensor for item in items for tensor in output_tensors(item, seen)]
