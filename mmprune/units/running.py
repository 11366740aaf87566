"""The modules that are running, to say where a forward has failed."""
from typing import Any, ContextManager, List, Tuple

from torch import nn

from ..graph.watching import watched


class Running:
    """The modules that are running, or were when an error was raised."""

    def __init__(self) -> None:
        self.stack: List[Tuple[str, nn.Module]] = []

    def watch(self, model: nn.Module) -> ContextManager[None]:
        """Watch a model's forward."""
        self.stack = []
        return watched(model.named_modules(), self._enter, self._leave)

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.stack.append((name, module))

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        self.stack.pop()

    @property
    def module(self) -> str:
        """Name of the innermost module with children."""
        return next((name for name, module in reversed(self.stack) if any(True for _ in module.children())), '')

    def __str__(self) -> str:
        """Return the innermost module with children, and the layer that it called."""
        name = f'module {self.module!r}' if self.module else 'the model'
        inside = [name for name, module in self.stack if any(True for _ in module.children())]
        return name if not self.stack or self.stack[-1][0] in ('', *inside) else f'{name}, at {self.stack[-1][0]!r}'
