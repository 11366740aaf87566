"""Dimensions of heads: every head loses dimensions of its own choice, and all heads keep equally many.

A set of such a unit is a rank: of each head (a *lane*) the dimension that stands at this rank. Scores order the
dimensions of each lane anew; what was removed before stays where it is.
"""
import copy
from dataclasses import replace
from typing import Any, List, Optional

import numpy as np
from torch import Tensor

from ..graph.channels import CoupledChannels, Member
from ..graph.factors import DIMENSIONS
from .structure import StructureError


def lanes_of(channels: CoupledChannels) -> Optional[np.ndarray]:
    """Return the lanes ``ndarray[L]`` whose dimensions may stand in any order, each lane for itself; None without.

    A tensor that all heads share, such as the weight of a norm over the dimensions of a head, ties their order.
    """
    if channels.part not in DIMENSIONS:
        return None
    found = [_lanes(member) for member in channels.members]
    if any(lanes is None for lanes in found):
        return None
    lanes: np.ndarray = np.unique(found[0])  # type: ignore[arg-type]
    for own in found:
        present, times = np.unique(own, return_counts=True)  # type: ignore[arg-type]
        if not np.array_equal(present, lanes) or len(set(times.tolist())) > 1:
            return None
    return lanes


def _lanes(member: Member) -> Optional[np.ndarray]:
    """Return the lane of every column of a member's index, ``ndarray[k]``; None where a column has several."""
    if member.axis.lanes is None:
        return None
    lanes = member.axis.lanes[member.index]
    return lanes[0] if (lanes == lanes[:1]).all() and (lanes >= 0).all() else None


def by_element(unit: Any) -> Any:
    """Return a unit of single elements, where a unit has lanes; else the unit itself.

    They stand lane after lane, those of a lane in the order of the dense model, whatever their ranks are.
    """
    lanes = lanes_of(unit.channels)
    if lanes is None:
        return unit
    ranks = _ranks(unit.channels, lanes)
    members = [Member(member.axis, np.concatenate([member.index[own][:, columns] for own, columns in zip(
        ranks, _columns(member, lanes))])) for member in unit.channels.members]
    single = copy.copy(unit)
    single.channels = replace(unit.channels, members=members, named_by=None)
    single.kept = unit.kept[ranks].reshape(-1)
    return single


def _ranks(channels: CoupledChannels, lanes: np.ndarray) -> np.ndarray:
    """Return the rank of each dimension of the dense model in every lane, ``ndarray[L, D]``."""
    first = channels.first
    return np.stack([np.argsort(first.index[:, columns[0]], kind='stable') for columns in _columns(first, lanes)])


def elements_of(unit: Any) -> int:
    """Return how many elements a unit has: one a set, or one a rank and lane."""
    lanes = lanes_of(unit.channels)
    return len(unit.kept) * (1 if lanes is None else len(lanes))


def _columns(member: Member, lanes: np.ndarray) -> List[np.ndarray]:
    own = _lanes(member)
    return [np.flatnonzero(own == lane) for lane in lanes]


def reorder(channels: CoupledChannels, order: np.ndarray) -> None:
    """Give the dimensions of each lane other ranks, in place.

    Args:
        channels (CoupledChannels): With lanes.
        order (ndarray[L, D]): The present rank of what each lane gets at every rank.
    """
    lanes = lanes_of(channels)
    assert lanes is not None
    for member in channels.members:
        index = member.index.copy()
        for columns, ranks in zip(_columns(member, lanes), order):
            member.index[:, columns] = index[ranks][:, columns]


def rank(unit: Any, scores: Tensor) -> Tensor:
    """Order the present dimensions of each lane by their scores, the best first; return a score for each rank.

    Args:
        unit (ChannelUnit): It may have lanes.
        scores (Tensor[L * C]): A score for each present element of :func:`by_element`.

    Returns:
        Tensor[C]: The sums over the lanes; of a unit without lanes the scores as they are.
    """
    lanes = lanes_of(unit.channels)
    if lanes is None:
        return scores
    ranks, present = _ranks(unit.channels, lanes), np.flatnonzero(unit.kept)
    there = np.stack([row[unit.kept[row]] for row in ranks])  # of each lane, in the order of the dense model
    matrix = scores.reshape(len(lanes), -1)
    best = matrix.argsort(dim=1, descending=True, stable=True)
    order: np.ndarray = np.tile(np.arange(len(unit.kept)), (len(lanes), 1))
    order[:, present] = np.take_along_axis(there, best.cpu().numpy(), axis=1)
    reorder(unit.channels, order)
    return matrix.gather(1, best).sum(0)


def order_of(unit: Any) -> Optional[np.ndarray]:
    """Return the rank of each dimension of the dense model in every lane, ``ndarray[L, D]``; None without lanes.

    Masks of sets are those of this order: a copy of the model takes it (:func:`take_order`) before it takes them.
    """
    lanes = lanes_of(unit.channels)
    return None if lanes is None else _ranks(unit.channels, lanes)


def take_order(unit: Any, wanted: np.ndarray) -> None:
    """Give dimensions the ranks that :func:`order_of` has returned, of this unit or of that of a copy of its model.

    Raises:
        StructureError: What is present is not whole ranks of this order.
    """
    lanes = lanes_of(unit.channels)
    assert lanes is not None
    ranks, places = _ranks(unit.channels, lanes), np.argsort(wanted, axis=1, kind='stable')
    order = np.take_along_axis(ranks, places, axis=1)
    kept = unit.kept[order]
    if (kept != kept[:1]).any():
        raise StructureError(f'the present dimensions of {unit.name!r} are no ranks of the given order')
    reorder(unit.channels, order)
    unit.kept = kept[0]


def adopt(unit: Any, vector: np.ndarray) -> None:
    """Let the ranks of a unit with lanes be such that a 0/1 vector over the first producer's channels keeps whole ones.

    Raises:
        StructureError: The heads keep different numbers, or the present dimensions are not among such ranks.
    """
    lanes = lanes_of(unit.channels)
    if lanes is None:
        return
    index = unit.channels.first.index
    place = np.argsort(np.argsort(index.reshape(-1))).reshape(index.shape)
    stays = vector.astype(bool)[place]  # [ranks, k]
    wanted = np.stack([stays[:, columns].all(axis=1) for columns in _columns(unit.channels.first, lanes)])
    kinds = 2 * (~unit.kept) + ~wanted  # what is present and stays comes first, then what is present, ...
    if len({tuple(np.bincount(row, minlength=4)) for row in kinds}) > 1:
        raise StructureError(f'the heads of {unit.name!r} keep different numbers of dimensions; all keep equally many')
    order = np.argsort(kinds, axis=1, kind='stable')
    unit.kept = np.sort(kinds[0], kind='stable') < 2
    reorder(unit.channels, order)
