"""Two predictions of boxes are matched one to one, and what is left over is explained or counted as different.

Two correct networks find the same boxes but for the last digits of float32, which decide where a score is at its
threshold, where the last of so many boxes is cut off, and where two boxes overlap by the threshold of the NMS, or have
equal scores. A box that one network alone has is explained only there, or where a file has it since it counts places
before its NMS (the best ``nms_pre``), of which mmdet counts every class by itself.
"""
from typing import Callable, List, NamedTuple, Optional, Tuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps
#: Largest difference of two boxes that count as equal: of corners over the longer side, of scores as logits. Sound
#: files are below 5e-5, weights that are 1 % off make it 1e-3 and more.
TOLERANCE = 3e-4
SMALL = 0.01  # of the largest coordinate: the side that smaller boxes are measured by
SHARE = 0.05  # of the boxes may come from regions that the NMS of proposals decides otherwise


class Rules(NamedTuple):
    """What a detector's post-processing keeps."""

    score: float = 0.0  # boxes of lower scores are dropped
    overlap: Optional[float] = None  # intersection over union, above which the NMS drops a box; None: no known NMS
    most: Tuple[Optional[int], Optional[int]] = (None, None)  # boxes in PyTorch and in the file; None: any number
    two_stage: bool = False  # boxes come from proposals, which have a NMS of their own


KEEPS_ALL = Rules()


class Agreement(NamedTuple):
    """How far two predictions agree."""

    difference: float  # largest relative difference of boxes or keypoints that are equal
    matched: int  # boxes or keypoints that are equal
    total: int  # boxes or keypoints that count, of the longer prediction
    explained: int = 0  # those of either prediction that differ by rounding at a threshold
    text: str = ''  # what differs otherwise


def logit(scores: Tensor) -> Tensor:
    """Return the logits of scores in float64."""
    return torch.logit(scores.double(), eps=EPSILON / 2)


def overlaps(left: Tensor, right: Tensor) -> Tensor:
    """Return the intersection over union ``Tensor[N, M]`` of boxes ``Tensor[N, 4]`` and ``Tensor[M, 4]``."""
    left, right = left.double(), right.double()
    low, high = torch.maximum(left[:, None, :2], right[:, :2]), torch.minimum(left[:, None, 2:], right[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (left, right)]
    return both / (areas[0][:, None] + areas[1] - both).clamp(min=1e-12)


def gaps(wanted: InstanceData, found: InstanceData) -> Tensor:
    """Return how far any two boxes are apart, ``Tensor[N, M]``; inf for boxes of two classes.

    The corners' largest distance over the longer side of the first box, or the distance of the logits of the scores
    over the larger of 1 and the first logit, whichever is larger. What float32 rounds of a score does not count.
    """
    side = (wanted.bboxes[:, 2:] - wanted.bboxes[:, :2]).amax(dim=1).clamp(min=SMALL * float(wanted.bboxes.abs().max()))
    corners = (wanted.bboxes[:, None] - found.bboxes).abs().amax(dim=2) / side[:, None]
    scores = wanted.scores.double()
    rounding = 4 * EPSILON / (scores * (1 - scores)).clamp(min=EPSILON)
    left = logit(wanted.scores)
    apart = ((left[:, None] - logit(found.scores)).abs() - rounding[:, None]).clamp(min=0)
    result = torch.maximum(corners.double(), apart / left.abs().clamp(min=1)[:, None])
    result[wanted.labels[:, None] != found.labels] = float('inf')
    return result


def match(wanted: InstanceData, found: InstanceData, tolerance: float) -> Tuple[List[float], Tensor, Tensor]:
    """Return the gaps of pairs of equal boxes, and for each box of either prediction whether it is left over."""
    left, right = torch.ones(len(wanted), dtype=torch.bool), torch.ones(len(found), dtype=torch.bool)
    matched: List[float] = []
    if left.any() and right.any():
        distance = gaps(wanted, found)
        for row in wanted.scores.argsort(descending=True).tolist():
            gap, column = distance[row].min(dim=0)
            if gap <= tolerance:
                matched.append(float(gap))
                left[row] = right[column] = False
                distance[:, column] = float('inf')
    return matched, left, right


Candidates = Callable[[bool], InstanceData]


def compare_boxes(wanted: InstanceData, found: InstanceData, rules: Rules = KEEPS_ALL,
                  candidates: Optional[Candidates] = None, tolerance: float = TOLERANCE) -> Agreement:
    """Match boxes of the same class one to one, those of high scores first, and explain what is left over.

    Args:
        wanted (InstanceData): PyTorch's ``bboxes`` ``Tensor[N, 4]``, ``scores`` and ``labels`` ``Tensor[N]``.
        found (InstanceData): The same of a file; boxes without an area do not count, as mmdet has none.
        rules (Rules): What the post-processing keeps.
        candidates (Callable, optional): Returns PyTorch's boxes before its last NMS; those of all proposals, or of
            all places of the network, if its argument is true.
        tolerance (float): Largest difference of equal boxes, see :func:`gaps`.
    """
    if not (found.bboxes.isfinite().all() and found.scores.isfinite().all()):
        return Agreement(0.0, 0, len(wanted), text='the file gives boxes or scores that are no numbers')
    least = [max(_above(rules.score, tolerance), _cut(boxes.scores, most, tolerance))
             for boxes, most in zip((found, wanted), rules.most[::-1])]
    wanted, found = (boxes[(boxes.bboxes[:, 2:] > boxes.bboxes[:, :2]).all(dim=1)] for boxes in (wanted, found))
    matched, lost, new = match(wanted, found, tolerance)
    only_wanted, only_found = wanted[lost], found[new]
    only_wanted = only_wanted[logit(only_wanted.scores) > least[0]]
    only_found = only_found[logit(only_found.scores) > least[1]]
    total = len(matched) + max(len(only_wanted), len(only_found))
    left = len(only_wanted) + len(only_found)  # rounding decides on few: more are not worth a look
    if 0 < left <= max(2, total / 2) and rules.overlap is not None and candidates is not None:
        only_wanted, only_found = _unexplained(
            (wanted, only_wanted), (found, only_found), rules, candidates, total, tolerance)
    differ = len(only_wanted) + len(only_found)
    return Agreement(max(matched, default=0.0), len(matched), total, left - differ,
                     _text(only_wanted, only_found, wanted, found) if differ else '')


def _above(score: float, tolerance: float) -> float:
    """Return the logit of a score and what rounding adds at most."""
    value = float(logit(torch.tensor(score)))
    return value + tolerance * max(1.0, abs(value))


def _cut(scores: Tensor, most: Optional[int], tolerance: float) -> float:
    """Return the logit below which a prediction has no boxes because it has so many already."""
    return _above(float(scores.min()), tolerance) if most and len(scores) == most else float('-inf')


Side = Tuple[InstanceData, InstanceData]


def _unexplained(wanted: Side, found: Side, rules: Rules, candidates: Candidates, total: int,
                 tolerance: float) -> Tuple[InstanceData, InstanceData]:
    """Return the boxes of each prediction that no NMS of PyTorch's candidates has, of all boxes and those left over.

    A box that is left over must be dropped by a box of the other prediction, which is as good and overlaps it; and if
    the file has it, it must be a candidate, and no better box of the file may drop it.
    """
    (all_wanted, lost), (all_found, new) = wanted, found
    margin = 4 * tolerance
    kept = ~_dropped(new, all_found, rules, margin, -margin)

    def left(any_score: bool) -> Tuple[Tensor, Tensor]:
        real = kept & _among(new, candidates, any_score, tolerance)
        return (~_dropped(lost, all_found, rules, -margin, margin, any_score),
                ~(real & _dropped(new, all_wanted, rules, -margin, margin, any_score)))

    rest = left(False)
    if rules.two_stage and 0 < sum(int(side.sum()) for side in rest) <= max(2, SHARE * total):
        rest = left(True)
    elif not rules.two_stage and rest[1].any():  # of places that PyTorch's limit before the NMS leaves out
        outside = ~_among(new, candidates, False, tolerance) & _among(new, candidates, True, tolerance)
        rest = (rest[0], rest[1] & ~(kept & outside))
    return lost[rest[0]], new[rest[1]]


def _among(boxes: InstanceData, candidates: Candidates, more: bool, tolerance: float) -> Tensor:
    """Tell which boxes are candidates."""
    known = candidates(more) if len(boxes) else boxes
    if not len(known):
        return torch.zeros(len(boxes), dtype=torch.bool)
    return gaps(boxes, known).amin(dim=1) <= tolerance


def _dropped(boxes: InstanceData, others: InstanceData, rules: Rules, overlap: float, score: float,
             any_score: bool = False) -> Tensor:
    """Tell which boxes overlap one of the others by more than the NMS allows, whose score is not lower.

    Args:
        boxes (InstanceData): ``N`` boxes.
        others (InstanceData): ``M`` boxes.
        rules (Rules): With the threshold of the NMS.
        overlap (float): Added to the threshold.
        score (float): How much lower the other's logit may be, over the larger of 1 and the own.
        any_score (bool): The other's score may be lower by any amount.
    """
    if not (len(boxes) and len(others)):
        return torch.zeros(len(boxes), dtype=torch.bool)
    assert rules.overlap is not None
    near = overlaps(boxes.bboxes, others.bboxes) > rules.overlap + overlap
    own, theirs = logit(boxes.scores)[:, None], logit(others.scores)
    better = (theirs >= own - score * own.abs().clamp(min=1)) | any_score
    return (near & better & (boxes.labels[:, None] == others.labels)).any(dim=1)


def _text(lost: InstanceData, new: InstanceData, wanted: InstanceData, found: InstanceData) -> str:
    """Say how many boxes differ, which is the best of them, and what the other prediction has there."""
    (boxes, others), owners = ((lost, found), ('PyTorch', 'the file')) if len(lost) else (
        (new, wanted), ('the file', 'PyTorch'))
    best = int(boxes.scores.argmax())
    box = boxes[best:best + 1]
    text = (f'{len(lost)} {"box is" if len(lost) == 1 else "boxes are"} in PyTorch alone and {len(new)} in the file '
            f'alone, such as {_name(box)} in {owners[0]}, where {owners[1]} has')
    near = others[others.labels == box.labels]
    if not len(near):
        return f'{text} no box of this class'
    distance, nearest = gaps(box, near)[0].min(dim=0)
    return f'{text} {_name(near[int(nearest):int(nearest) + 1])}, {float(distance):.2g} apart'


def _name(box: InstanceData) -> str:
    corners = ', '.join(f'{value:.2f}' for value in box.bboxes[0].tolist())
    return f'class {int(box.labels)} at ({corners}) with a score of {float(box.scores):.5f}'
