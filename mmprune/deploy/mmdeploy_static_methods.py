"""A model runs after mmdeploy has exported one: static methods are given back as such.

mmdeploy 1.3.1 saves what it rewrites by ``getattr``, which unwraps a static method, and puts it back as a function of
its class. ``ShiftWindowMSA.get_attn_mask`` of mmpretrain's Swin then gets the module as its first argument, and the
next forward in the process fails.
"""
from typing import Any, Dict, List, Optional, Tuple

from mmdeploy.core import FUNCTION_REWRITER
from mmdeploy.core.rewriters.function_rewriter import FunctionRewriter
from mmdeploy.core.rewriters.rewriter_utils import import_function


class StaticMethodsRewriter(FunctionRewriter):  # type: ignore[misc]
    """mmdeploy's rewriter of functions, which remembers how a class holds its methods."""

    #: Class, name and static or class method, of what the export rewrites.
    unbound: List[Tuple[type, str, Any]] = []

    def enter(self, cfg: Optional[Dict[str, Any]] = None, env: Optional[Dict[str, Any]] = None,
              **kwargs: Any) -> None:
        """Rewrite functions; arguments are mmdeploy's."""
        self.unbound = []
        for path, _ in self._registry.get_records(env or {}):
            try:
                _, owner = import_function(path)
            except Exception:  # mmdeploy warns of functions that it does not find
                continue
            name = path.rpartition('.')[2]
            if owner is not None and isinstance(held := vars(owner).get(name), (staticmethod, classmethod)):
                self.unbound.append((owner, name, held))
        super().enter(cfg or {}, env or {}, **kwargs)

    def exit(self) -> None:
        """Give back what was rewritten."""
        super().exit()
        for owner, name, held in self.unbound:
            setattr(owner, name, held)


FUNCTION_REWRITER.__class__ = StaticMethodsRewriter
