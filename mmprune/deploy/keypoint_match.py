"""Keypoints of a file are compared with PyTorch's; a place whose maximum two positions share may be either of them."""
from typing import Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from .box_match import Agreement

#: Largest difference of equal keypoints over the largest coordinate, and of their scores over the largest score.
TOLERANCE = 3e-4


def compare_keypoints(wanted: InstanceData, found: InstanceData, maps: Sequence[Tensor] = (),
                      tolerance: float = TOLERANCE) -> Agreement:
    """Compare the keypoints of one image, in order.

    Args:
        wanted (InstanceData): PyTorch's ``keypoints`` ``[N, K, 2]`` and ``keypoint_scores`` ``[N, K]``.
        found (InstanceData): The same of a file.
        maps (list[Tensor]): What PyTorch's keypoints are the maxima of, each ``[N, K, ...]``. Where two positions share
            the maximum but for rounding, the keypoint may lie elsewhere; its score must not differ.
        tolerance (float): Largest difference of equal keypoints.
    """
    pairs = [[torch.as_tensor(data[key]).double() for data in (wanted, found)]
             for key in ('keypoints', 'keypoint_scores')]
    shapes = [' and '.join(str(tuple(tensors[side].shape)) for tensors in pairs) for side in (0, 1)]
    if shapes[0] != shapes[1]:
        return Agreement(0.0, 0, pairs[1][0].numel(), text=f'keypoints and scores have the shapes {shapes[0]} in '
                                                           f'PyTorch, {shapes[1]} in the file')
    places, scores = [(left - right).abs().nan_to_num(nan=float('inf')) / left.abs().max().clamp(min=1e-12)
                      for left, right in pairs]
    places = places.amax(dim=-1)
    gap = torch.maximum(places, scores)
    equal = gap <= tolerance
    tied = ~equal & (scores <= tolerance) & _tied(maps, equal, tolerance)
    differ = ~(equal | tied)
    return Agreement(float(gap[equal].max()) if equal.any() else 0.0, int(equal.sum()), equal.numel(), int(tied.sum()),
                     _text(pairs, gap.masked_fill(~differ, 0), int(differ.sum())) if differ.any() else '')


def _text(pairs: Sequence[Sequence[Tensor]], gap: Tensor, count: int) -> str:
    """Say how many keypoints differ, and which most."""
    worst = int(gap.argmax())
    places = [', '.join(f'{value:.2f}' for value in side.flatten(0, 1)[worst].tolist()) for side in pairs[0]]
    scores = [f'{float(side.flatten()[worst]):.5f}' for side in pairs[1]]
    return (f'{count} of the keypoints {"differs" if count == 1 else "differ"}, most number {worst % gap.size(-1)}, '
            f'which is at ({places[0]}) with a score of {scores[0]} in PyTorch and at ({places[1]}) with {scores[1]} '
            'in the file')


def _tied(maps: Sequence[Tensor], like: Tensor, tolerance: float) -> Tensor:
    """Tell of which keypoints two positions have the largest value, in any of the maps."""
    tied = torch.zeros_like(like)
    for values in maps:
        if values.shape[:2] == like.shape and values[0, 0].numel() > 1:
            best = values.double().flatten(2).topk(2, dim=-1).values
            tied |= best[..., 0] - best[..., 1] <= 2 * tolerance * values.abs().max()
    return tied
