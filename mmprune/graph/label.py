"""Channel labels: integer tensors with the channel id of every element of an activation.

A label tensor has the shape of its activation, but is usually an expanded view of one id per channel, so that it
costs C integers and not N*C*H*W. ``-1`` marks elements that are no channel of any layer (the image, padding).
"""
from typing import Optional, Sequence

import numpy as np
import torch
from torch import Tensor


def compact(labels: Tensor) -> Tensor:
    """Return the labels with every axis along which they are an expanded view reduced to size 1."""
    for axis in range(labels.dim()):
        if labels.size(axis) > 1 and labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
    return labels


def canonical(labels: Tensor) -> Tensor:
    """Return the labels with every axis along which they are constant reduced to size 1."""
    labels = compact(labels)
    if sum(size > 1 for size in labels.shape) > 1:
        for axis in range(labels.dim()):
            if labels.size(axis) > 1 and constant_along(labels, [axis]):
                labels = labels.narrow(axis, 0, 1)
    return labels


def distinct_slices(labels: Tensor, axes: Optional[Sequence[int]] = None) -> Tensor:
    """Return the labels without slices along the axes (default: all) that repeat an earlier slice."""
    for axis in range(labels.dim()) if axes is None else axes:
        if labels.size(axis) > 1 and labels.numel() > labels.size(axis):
            rows = labels.movedim(axis, 0).reshape(labels.size(axis), -1)
            generator = torch.Generator().manual_seed(0)
            weights = torch.randint(1, 2**62, (rows.size(1),), generator=generator)
            keys = (rows * weights).sum(1).numpy()  # integers wrap around: a hash of each slice
            first = np.sort(np.unique(keys, return_index=True)[1])
            if len(first) < len(keys):
                labels = labels.index_select(axis, torch.from_numpy(first))
    return labels


def take_first(labels: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the labels at position 0 of each of the axes, which keep size 1."""
    for axis in axes:
        if labels.size(axis) > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def constant_along(labels: Tensor, axes: Sequence[int]) -> bool:
    """Tell whether the labels do not change along the given axes."""
    labels = compact(labels)
    return bool(torch.equal(take_first(labels, axes).expand(labels.shape), labels))


def to_axis(labels: Tensor, axis: int) -> Tensor:
    """Return compact labels as a matrix ``Tensor[rows, size]``, the given axis last."""
    size = labels.size(axis)
    labels = compact(labels).transpose(axis, -1)
    if labels.size(-1) != size:
        labels = labels.expand(*labels.shape[:-1], size)
    return labels.reshape(-1, size)
