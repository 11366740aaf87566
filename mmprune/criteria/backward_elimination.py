"""Which channels least squares can do without: removed one by one, each time the one that costs least after a refit.

The prices are those of the optimal brain surgeon; Hassibi and Stork, Second Order Derivatives for Network Pruning,
NeurIPS 1992. Here the squared error is that of the outputs of layers, so that their second derivatives are exact.
"""
from typing import Sequence, Tuple

import torch
from torch import Tensor

#: The least share of a tensor that is still needed before what is not is let go.
COMPACT = 0.7


class Reader:
    """A layer that reads sets of channels, its weight always the best one for the sets that are left.

    Without a set ``S`` of its inputs, the least squared error of the layer's outputs rises by ``tr(V_S Q^-1 V_S^T)``,
    where ``V`` is its present weight and ``Q`` the block of ``S`` in the inverse of the covariance of its present
    inputs. The weight that takes over is ``V - V_S Q^-1 P_S``, the inverse ``P - P_S^T Q^-1 P_S``.

    Args:
        inverse (Tensor[G, K, K]): Inverse of the covariance of all inputs of the layer, group by group; float64.
        weight (Tensor[G, O, K]): Its weight, float64.
        blocks (LongTensor[C, s]): Inputs of each set, the same in each group; the others are never removed.
        unit (float): What errors are counted in.
    """

    def __init__(self, inverse: Tensor, weight: Tensor, blocks: Tensor, unit: float = 1.0) -> None:
        own = blocks.flatten()
        self.inverse, self.weight = inverse[:, own][:, :, own], weight[:, :, own]  # what never goes needs no update
        self.size, self.unit = blocks.size(1), unit

    def prices(self) -> Tensor:
        """Return ``Tensor[C]``: by how much the error rises without each set; only those of present ones are right."""
        if self.size == 1:
            squares = self.weight.square().sum(1)
            return (squares / self.inverse.diagonal(dim1=1, dim2=2)).sum(0) / self.unit
        weight = self.weight.unflatten(2, (-1, self.size)).permute(0, 2, 3, 1)
        products = weight @ weight.transpose(2, 3)
        blocks = self.inverse.unflatten(2, (-1, self.size)).unflatten(1, (-1, self.size)).diagonal(dim1=1, dim2=3)
        found: Tensor = torch.linalg.solve(blocks.permute(0, 3, 1, 2), products)
        return found.diagonal(dim1=2, dim2=3).sum((0, 2)) / self.unit

    def remove(self, place: int) -> None:
        """Let the other sets take over for one."""
        part = slice(place * self.size, (place + 1) * self.size)
        factor = torch.linalg.cholesky(self.inverse[:, part, part])
        rows = torch.linalg.solve_triangular(factor, self.inverse[:, part], upper=False)
        columns = torch.linalg.solve_triangular(factor, self.weight[:, :, part].transpose(1, 2), upper=False)
        self.weight.baddbmm_(columns.transpose(1, 2), rows, alpha=-1)
        self.inverse.baddbmm_(rows.transpose(1, 2), rows, alpha=-1)
        self.inverse[:, part, part] = torch.eye(self.size, dtype=rows.dtype, device=rows.device)

    def keep(self, places: Tensor) -> None:
        """Forget all sets but some, ``LongTensor[C]``."""
        own = (places[:, None] * self.size + torch.arange(self.size)).flatten()
        self.inverse, self.weight = self.inverse[:, own][:, :, own], self.weight[:, :, own]


def backward_elimination(readers: Sequence[Reader], sets: int) -> Tuple[Tensor, Tensor]:
    """Remove all sets of channels, each time the one without which the errors of all layers rise least.

    Args:
        readers (list[Reader]): The layers that read the sets; they are used up.
        sets (int): How many.

    Returns:
        tuple[LongTensor[sets], Tensor[sets]]: The sets in the order of their removal, and the error after each.
    """
    present = torch.arange(sets)
    alive = torch.ones(sets, dtype=torch.bool)
    order, errors, error = [], [], 0.0
    for _ in range(sets):
        if int(alive.sum()) < COMPACT * len(alive):
            for reader in readers:
                reader.keep(alive.nonzero().squeeze(1))
            present, alive = present[alive], alive[alive]
        prices = torch.stack([reader.prices() for reader in readers]).sum(0).cpu()
        place = int(prices.masked_fill(~alive, torch.inf).argmin())
        error += max(0.0, float(prices[place]))
        for reader in readers:
            reader.remove(place)
        alive[place] = False
        order.append(int(present[place]))
        errors.append(error)
    return torch.tensor(order), torch.tensor(errors, dtype=torch.float64)
