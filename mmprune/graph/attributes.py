"""What modules keep beside parameters, buffers and children: left as it was, whatever a forward writes there."""
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

import torch
from torch import nn

#: Attributes of torch itself, beside its hooks.
OWN = ('_parameters', '_buffers', '_modules', '_non_persistent_buffers_set')


@contextmanager
def unchanged_attributes(model: nn.Module) -> Iterator[None]:
    """Put the attributes of all modules back when the block ends: no cache, counter or tensor of it stays.

    Lists, dicts and sets are the same objects afterwards, with their former contents.
    """
    before = [(module, _attributes(module)) for module in model.modules()
              if not isinstance(module, torch.jit.ScriptModule)]
    contents = [pair for _, attributes in before for value in attributes.values() for pair in _contents(value)]
    try:
        yield
    finally:
        for module, attributes in before:
            for name in set(_attributes(module)) - set(attributes):
                del module.__dict__[name]
            module.__dict__.update(attributes)
        for container, content in contents:
            _refill(container, content)


def _attributes(module: nn.Module) -> Dict[str, Any]:
    return {name: value for name, value in vars(module).items()
            if name not in OWN and not (name.startswith('_') and '_hook' in name)}


def _contents(value: Any) -> List[Tuple[Any, Any]]:
    """Return the containers in a value, each with a copy of what it holds."""
    if isinstance(value, dict):
        return [(value, dict(value)), *(pair for item in value.values() for pair in _contents(item))]
    if isinstance(value, (list, tuple)):
        inside = [pair for item in value for pair in _contents(item)]
        return [(value, list(value)), *inside] if isinstance(value, list) else inside
    return [(value, set(value))] if isinstance(value, set) else []


def _refill(container: Any, content: Any) -> None:
    present, former = (list(one.items()) if isinstance(one, dict) else list(one) for one in (container, content))
    if len(present) == len(former) and all(_same(a, b) for a, b in zip(present, former)):
        return
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.update(content)


def _same(left: Any, right: Any) -> bool:
    """Tell whether two items are the same objects; those of dicts are pairs."""
    if isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right) == 2:
        return left[0] is right[0] and left[1] is right[1]
    return left is right
