"""What whole modules do to channel labels, for modules whose inside cannot be followed: one entry a class.

Compiled operations hide their channels from a trace, and some forwards cannot be traced operation by operation. A
rule for the class of such a module is called after it ran, as ``rule(tracer, module, args, kwargs, out)``; nothing
inside the module is traced, and its conv and linear layers are not pruned unless the rule says what they read and
produce.
"""
from typing import Any, Callable, Dict, Optional

from torch import nn

Rule = Callable[..., None]
#: class name of a module -> rule
MODULE_RULES: Dict[str, Rule] = {}


def register_module(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for modules by class name, for example ``@register_module('DeformConv2d')``.

    Subclasses inherit it.
    """

    def add(rule: Rule) -> Rule:
        for name in names:
            MODULE_RULES[name] = rule
        return rule

    return add


def rule_of(module: nn.Module) -> Optional[Rule]:
    """Return the rule of a module's class or of the nearest base class that has one, or None."""
    if MODULE_RULES:
        for kind in type(module).__mro__:
            if kind.__name__ in MODULE_RULES:
                return MODULE_RULES[kind.__name__]
    return None


def keeps_channels(tracer: Any, module: Any, args: Any, kwargs: Dict[str, Any], out: Any) -> None:
    """Rule of a module, or of a function, that treats every channel of axis 1 alike: RoI pooling, resampling."""
    if tracer.labels_of(args[0]) is not None:
        ids = tracer.channels_of(args[0], 1)
        tracer.set_labels(out, ids.view(1, -1, *[1] * (out.dim() - 2)).expand(out.shape))
