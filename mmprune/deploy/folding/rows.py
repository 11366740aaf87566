"""Which module reads what another returns, row by row: tokens may be moved, picked or repeated on the way."""
from typing import Any, Callable, Collection, Dict, List, Mapping, Optional

import torch
from torch import Tensor, nn

from ...graph.nested import output_tensors
from ...graph.watching import watched

#: Layers with the channels of what they read on axis 1.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MatchedRows:
    """Rows along the channels that some modules read and return in a forward, by what they hold, bit by bit.

    Args:
        modules (dict[str, nn.Module]): Name -> module.
        forward (Callable): Runs the model.

    Attributes:
        order (list[str]): The modules as they ran.
    """

    def __init__(self, modules: Mapping[str, nn.Module], forward: Callable[[], Any]) -> None:
        self.order: List[str] = []
        self._read: Dict[str, List[Tensor]] = {}
        self._returned: Dict[str, List[Tensor]] = {}

        def before(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
            self.order.append(name)
            self._read.setdefault(name, []).extend(map(_keys, _maps(module, (args, kwargs))))

        def after(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            self._returned.setdefault(name, []).extend(map(_keys, _maps(module, out)))

        with watched(modules.items(), before, after):
            forward()

    def source(self, reader: str, candidates: Collection[str]) -> Optional[str]:
        """Return the module among some that has returned all rows that another reads, None if there is none."""
        read = self._read.get(reader)
        if not read:
            return None
        return next((name for name in candidates if name != reader and self._returned.get(name) and bool(
            torch.isin(torch.cat(read), torch.cat(self._returned[name])).all())), None)

    def last_before(self, name: str, candidates: Collection[str]) -> Optional[str]:
        """Return which of some modules ran last before another."""
        if name not in self.order:
            return None
        return next((one for one in reversed(self.order[:self.order.index(name)]) if one in candidates), None)


def _maps(module: nn.Module, values: Any) -> List[Tensor]:
    """Return tensors with the channels last."""
    axis = 1 if isinstance(module, CONVOLUTIONS) or getattr(module, 'axis', -1) == 1 else -1
    return [tensor.movedim(axis, -1) for tensor in output_tensors(values)
            if tensor.is_floating_point() and tensor.dim() > 1]


def _keys(tensor: Tensor) -> Tensor:
    """Return a number for each row of ``Tensor[..., C]``; integers wrap around."""
    rows = tensor.detach().double().reshape(-1, tensor.size(-1)).contiguous().view(torch.int64)
    weights = torch.randint(1, 2**62, (rows.size(1), ), generator=torch.Generator().manual_seed(rows.size(1)))
    return (rows * weights.to(rows.device)).sum(1)
