"""Values that combine channels and that only Python may look at: ``assert torch.isfinite(x).all()``."""
from typing import Any, List, Sequence, Tuple

from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary

#: Channel ids and why they must stay.
Reason = Tuple[Tensor, str]


class Deferred:
    """Reasons to freeze channels that wait until a value made of them meets another tensor.

    A value that only reaches Python, for a check or a branch, changes nothing that the model computes; where the branch
    depends on it, the trial cut finds out.
    """

    def __init__(self) -> None:
        self._waiting = WeakTensorKeyDictionary()

    def add(self, out: Any, labels: Tensor, reason: str) -> None:
        """Note that results combine channels."""
        self.pass_on([(labels, reason)], out)

    def of(self, *values: Any) -> List[Reason]:
        """Return the reasons that wait for the tensors in nested values."""
        if not len(self._waiting):
            return []
        leaves = (leaf for leaf in tree_flatten(values)[0] if isinstance(leaf, Tensor))
        return [reason for leaf in leaves for reason in self._waiting.get(leaf, [])]

    def pass_on(self, reasons: Sequence[Reason], out: Any) -> None:
        """Let results wait for the reasons of what they were computed from."""
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor):
                both = [*self._waiting.get(leaf, []), *reasons]
                self._waiting[leaf] = list({(id(labels), text): (labels, text) for labels, text in both}.values())
