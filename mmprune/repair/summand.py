"""What a layer's output is added to: where the pruned network's stream is off, the layer can make up for it."""
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

#: Functions that add two tensors.
ADDITIONS = {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__radd__,
             torch.Tensor.__iadd__}


class Summand(NamedTuple):
    """The other tensor of a sum, as a module call that comes before the layer's has it."""

    module: str  #: name of the module
    is_read: bool  #: it is what the module reads; else what it returns


class Sum(NamedTuple):
    """An addition that was seen, with its tensors."""

    parts: Sequence[Tensor]  #: the two
    out: Tensor  #: their sum, which may be one of the two
    used: Sequence[int]  #: how often each of the two had been used before
    versions: Sequence[int]  #: of the two, before


def version(tensor: Tensor) -> int:
    """Return how often a tensor has been changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def find_summand(tail: Tensor, began: int, sums: Sequence[Sum], uses: int, calls: Sequence[Any],
                 counts: Dict[str, int]) -> Optional[Summand]:
    """Return what a tensor is added to, where it is used for nothing else and a module has the other before.

    Args:
        tail (Tensor): What a layer returns, or the norm that it feeds.
        began (int): When the layer is called.
        sums (list[Sum]): All additions of the forward.
        uses (int): How often the tensor is used in all.
        calls (list[Call]): All module calls of the forward.
        counts (dict[str, int]): Module -> how often it is called.
    """
    for one in sums:
        for mine, place in ((0, 1), (1, 0)):
            other = one.parts[place]
            if one.parts[mine] is not tail or other is tail or one.used[mine] or not (uses == 1 or one.out is tail):
                continue
            found: List[Any] = []
            for call in calls:
                if counts[call.name] != 1:
                    continue
                if call.x is other and call.start < began and call.versions[0] == one.versions[place]:
                    found.append((call.start, Summand(call.name, True)))
                if call.out is other and call.end < began and call.versions[1] == one.versions[place]:
                    found.append((call.end, Summand(call.name, False)))
            return max(found)[1] if found else None
    return None
