"""Means and centred second moments of what a layer reads and what it shall return, and least squares by them."""
import math
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

#: Of an input, as a share of the largest: the ridge holds inputs that never change as those that hardly do.
LEAST_VARIANCE = 1e-6
#: What others leave of an input, as a share of it, below which it counts as a sum of the others.
LEAST_PIVOT = 1e-10
#: Rows of a product of inputs with themselves that are computed at once.
BLOCK = 256


class Moments(NamedTuple):
    """Moments over the samples of a layer with ``G`` groups, ``K`` inputs and ``O`` outputs in each; float64."""

    samples: int  #: how many
    x: Tensor  #: ``Tensor[G, K]``: mean of the inputs
    y: Tensor  #: ``Tensor[G, O]``: mean of the outputs that are wanted
    xx: Tensor  #: ``Tensor[G, K, K]``: covariance of the inputs
    yx: Tensor  #: ``Tensor[G, O, K]``: covariance of outputs and inputs
    yy: Tensor  #: ``Tensor[G, O]``: variance of the outputs

    def joined(self, other: 'Moments') -> 'Moments':
        """Return the moments over the samples of both."""
        count = self.samples + other.samples
        mine, theirs = self.samples / count, other.samples / count
        x, y = other.x - self.x, other.y - self.y
        both = mine * theirs
        return Moments(count, self.x + theirs * x, self.y + theirs * y,
                       (mine * self.xx).add_(other.xx, alpha=theirs).baddbmm_(x[:, :, None], x[:, None], alpha=both),
                       mine * self.yx + theirs * other.yx + both * y[:, :, None] * x[:, None],
                       mine * self.yy + theirs * other.yy + both * y.square())

    def uncentred(self) -> 'Moments':
        """Return the moments about zero, for a layer that can have no offset."""
        return Moments(self.samples, torch.zeros_like(self.x), torch.zeros_like(self.y),
                       self.xx + self.x[:, :, None] * self.x[:, None], self.yx + self.y[:, :, None] * self.x[:, None],
                       self.yy + self.y.square())


class Sums:
    """Adds up samples to their :class:`Moments`.

    Products are taken block by block in the precision of the samples, about the mean of the first block, so that
    float32 loses nothing where the means are large.
    """

    def __init__(self) -> None:
        self.count = 0
        self._parts: Optional[list] = None

    def add(self, x: Tensor, y: Optional[Tensor] = None) -> None:
        """Add samples.

        Args:
            x (Tensor[G, K, S]): Inputs.
            y (Tensor[G, O, S], optional): Outputs that are wanted; by default there are none.
        """
        y = x[:, :0] if y is None else y
        if not self.count:
            self._shift = x.mean(2, keepdim=True), y.mean(2, keepdim=True)
        x, y = x - self._shift[0], y - self._shift[1]
        parts = [x.sum(2, dtype=torch.float64), y.sum(2, dtype=torch.float64), y @ x.transpose(1, 2),
                 y.square().sum(2, dtype=torch.float64)]
        if self._parts is None:
            self._parts = parts
            self._xx = x.new_zeros(*x.shape[:2], x.size(1))
        else:
            for total, part in zip(self._parts, parts):
                total += part
        for first in range(0, x.size(1), BLOCK):  # what lies below the diagonal is mirrored at the end
            self._xx[:, first:first + BLOCK, first:].baddbmm_(x[:, first:first + BLOCK], x[:, first:].transpose(1, 2))
        self.count += x.size(2)

    def moments(self) -> Moments:
        """Return the moments of all samples so far."""
        assert self._parts is not None
        x, y, yx, yy = (part.double() / self.count for part in self._parts)
        xx = self._xx.to(torch.float64, copy=True).div_(self.count)
        for end in range(BLOCK, x.size(1), BLOCK):
            xx[:, end:, end - BLOCK:end] = xx[:, end - BLOCK:end, end:].transpose(1, 2)
        return Moments(self.count, x + self._shift[0].squeeze(2).double(), y + self._shift[1].squeeze(2).double(),
                       xx.baddbmm_(x[:, :, None], x[:, None], alpha=-1), yx - y[:, :, None] * x[:, None],
                       yy - y.square())


class Inverse:
    """The inverse of second moments, with a ridge on their diagonal, kept factored.

    Where inputs depend on each other it is the pseudo-inverse, in which each input counts by its variance.

    Args:
        xx (Tensor[G, K, K]): Second moments, or a covariance.
        ridge (float): Strength of the ridge, as a share of each input's variance.
    """

    def __init__(self, xx: Tensor, ridge: float) -> None:
        system = xx.clone()
        if ridge:
            scale = xx.diagonal(dim1=1, dim2=2)
            least = LEAST_VARIANCE * scale.amax(1, keepdim=True)
            scale = torch.maximum(scale, torch.where(least > 0, least, torch.ones_like(least)))
            system.diagonal(dim1=1, dim2=2).add_(ridge * scale)
        self._factor, failed = torch.linalg.cholesky_ex(system)
        size, pivots = system.diagonal(dim1=1, dim2=2), self._factor.diagonal(dim1=1, dim2=2).square()
        self._is_inverse = bool(failed.any()) or not bool((pivots > LEAST_PIVOT * size).all())
        if self._is_inverse:
            root = torch.where(size > 0, size, torch.ones_like(size)).sqrt()
            outer = root[:, :, None] * root[:, None]
            self._factor = torch.linalg.pinv(system / outer, rtol=LEAST_PIVOT, hermitian=True) / outer

    def after(self, rows: Tensor) -> Tensor:
        """Return the product of rows ``Tensor[G, O, K]`` and the inverse."""
        if self._is_inverse:
            return rows @ self._factor
        return torch.cholesky_solve(rows.transpose(1, 2), self._factor).transpose(1, 2)

    def matrix(self) -> Tensor:
        """Return the inverse ``Tensor[G, K, K]`` itself."""
        return self._factor if self._is_inverse else torch.cholesky_inverse(self._factor)


class LeastSquares:
    """Weights with the least squared error about the means that stay near another, of one layer.

    ``V = (E[y x^T] + W R) (E[x x^T] + R)^-1``, where ``R`` is the ridge times the diagonal of ``E[x x^T]``: a change of
    scale of an input changes nothing. The system of the ridge that was used last is kept factored.

    Args:
        moments (Moments): Of the samples.
        prior (Tensor[G, O, K]): The weight ``W`` that the ridge draws to.
    """

    def __init__(self, moments: Moments, prior: Tensor) -> None:
        self.moments, self.prior = moments, prior
        self._of_prior = prior @ moments.xx
        self._ridge = math.inf
        self._inverse: Optional[Inverse] = None

    def solved(self, ridge: float, moments: Optional[Moments] = None) -> Tuple[Tensor, Tensor]:
        """Return the weight ``Tensor[G, O, K]``, and the offset ``Tensor[G, O]`` with which the means are right.

        Args:
            ridge (float): Strength of the ridge; 0 is plain least squares, infinity leaves the prior as it is.
            moments (Moments, optional): The same inputs with other outputs that are wanted.
        """
        moments = moments or self.moments
        if math.isinf(ridge):
            return self.prior, offset_of(moments, self.prior)
        if ridge != self._ridge or self._inverse is None:
            self._ridge, self._inverse = ridge, Inverse(self.moments.xx, ridge)
        # the change against the prior: what no sample tells stays as it is
        change = self._inverse.after(moments.yx - self._of_prior)
        return self.prior + change, offset_of(moments, self.prior + change)


def offset_of(moments: Moments, weight: Tensor) -> Tensor:
    """Return ``Tensor[G, O]``, the offset with which a weight ``Tensor[G, O, K]`` has the right means."""
    return moments.y - (weight @ moments.x[:, :, None]).squeeze(2)


def squared_error(moments: Moments, weight: Tensor, offset: Tensor) -> float:
    """Return the squared error of a weight ``Tensor[G, O, K]`` and an offset ``Tensor[G, O]``, summed over outputs."""
    spread = moments.yy - 2 * (weight * moments.yx).sum(2) + ((weight @ moments.xx) * weight).sum(2)
    return float((spread.clamp_min(0) + (offset_of(moments, weight) - offset).square()).sum())
