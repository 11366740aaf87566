"""The modules that run while a model is traced, and the rules of those that are taken whole."""
from contextlib import contextmanager
from typing import Any, Iterator, List, Tuple

import torch
from torch import nn

from .rules.table import Call, Rule, rule_of
from .tracer import Tracer
from .watching import watched


class ModuleRules:
    """Keep the running modules on the tracer's stack, and apply module rules."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.whole: List[Tuple[nn.Module, Rule]] = []

    @contextmanager
    def shown(self, model: nn.Module) -> Iterator[None]:
        """Watch the modules of a model; operations inside scripted modules, which take no hooks, are traced too."""
        try:
            with watched(model.named_modules(), self._enter, self._leave):
                yield
        finally:
            self.tracer.module_stack.clear()

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.tracer.module_stack.append((name, module))
        self.tracer.note_run(module)
        rule = rule_of(module)
        if rule is not None and not self.tracer.paused:
            self.tracer.paused, self.tracer.whole_module = True, f'module {name!r}'
            self.whole.append((module, rule))

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if self.whole and self.whole[-1][0] is module:
            with torch.no_grad():
                self.tracer.settle(args, kwargs)
                self.whole.pop()[1](self.tracer, Call('', args, kwargs, out))
            self.tracer.paused, self.tracer.whole_module = False, None
        self.tracer.module_stack.pop()
