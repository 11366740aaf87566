"""What modules keep beside parameters, buffers and children: left as it was, whatever a forward writes there."""
from collections import deque
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Set, Tuple

import torch
from torch import nn

#: Attributes of torch itself, beside its hooks.
OWN = ('_parameters', '_buffers', '_modules', '_non_persistent_buffers_set')


@contextmanager
def unchanged_attributes(model: nn.Module) -> Iterator[None]:
    """Put attributes and buffers of all modules back when the block ends: no cache, counter or tensor of it stays.

    Lists, dicts, sets and deques are the same objects afterwards, with their former contents. What a forward writes
    into other objects stays.
    """
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    buffers = [(module._buffers, dict(module._buffers)) for module in modules]
    values = [(buffer, buffer.detach().clone()) for _, own in buffers for buffer in own.values() if buffer is not None]
    before = [(module, _attributes(module)) for module in modules]
    seen: Set[int] = set()
    contents = [pair for _, attributes in before for value in attributes.values() for pair in _contents(value, seen)]
    try:
        yield
    finally:
        for module, attributes in before:
            for name in set(_attributes(module)) - set(attributes):
                del module.__dict__[name]
            module.__dict__.update(attributes)
        for container, content in [*contents, *buffers]:
            _refill(container, content)
        for buffer, value in values:
            if not torch.equal(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)


def _attributes(module: nn.Module) -> Dict[str, Any]:
    return {name: value for name, value in vars(module).items()
            if name not in OWN and not (name.startswith('_') and '_hook' in name)}


def _contents(value: Any, seen: Set[int]) -> List[Tuple[Any, Any]]:
    """Return the containers in a value, each once, with a copy of what it holds."""
    if not isinstance(value, (dict, list, tuple, set, deque)) or id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, set):
        return [(value, set(value))]
    items = list(value.values() if isinstance(value, dict) else value)
    inside = [pair for item in items for pair in _contents(item, seen)]
    own = [] if isinstance(value, tuple) else [(value, dict(value) if isinstance(value, dict) else items)]
    return [*own, *inside]


def _refill(container: Any, content: Any) -> None:
    present, former = (list(one.items()) if isinstance(one, dict) else list(one) for one in (container, content))
    if len(present) == len(former) and all(_same(a, b) for a, b in zip(present, former)):
        return
    container.clear()
    if isinstance(container, (list, deque)):
        container.extend(content)
    else:
        container.update(content)


def _same(left: Any, right: Any) -> bool:
    """Tell whether two items are the same objects; those of dicts are pairs."""
    if isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right) == 2:
        return left[0] is right[0] and left[1] is right[1]
    return left is right
