"""Hooks on modules for the time of a block, removed even after an error."""
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple

import torch
from torch import nn

#: Called as ``before(name, module, args, kwargs)``.
Before = Callable[[str, nn.Module, Any, Any], Any]
#: Called as ``after(name, module, args, kwargs, out)``; a result that is not None replaces the output.
After = Callable[[str, nn.Module, Any, Any, Any], Any]


class Enough(Exception):
    """A forward has gone far enough; hooks raise it, and whoever has set them catches it."""


@contextmanager
def watched(modules: Iterable[Tuple[str, nn.Module]], before: Optional[Before] = None,
            after: Optional[After] = None) -> Iterator[None]:
    """Call functions before and after every forward of some modules, for the time of the block.

    Args:
        modules (iterable[tuple[str, nn.Module]]): Names and modules. Scripted modules take no hooks and are left out.
        before (Callable, optional): See :data:`Before`.
        after (Callable, optional): See :data:`After`.
    """
    handles: List[Any] = []

    def watch(name: str, module: nn.Module) -> None:
        if before is not None:
            handles.append(module.register_forward_pre_hook(
                lambda module, args, kwargs: before(name, module, args, kwargs), with_kwargs=True))
        if after is not None:
            handles.append(module.register_forward_hook(
                lambda module, args, kwargs, out: after(name, module, args, kwargs, out), with_kwargs=True))

    try:
        for name, module in modules:
            if not isinstance(module, torch.jit.ScriptModule):
                watch(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()
