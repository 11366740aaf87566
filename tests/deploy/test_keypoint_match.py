"""Keypoints are compared in order; where two positions share a maximum, either may be the keypoint."""
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData

from mmprune.deploy.keypoint_match import compare_keypoints


def keypoints(x=7.0, score=0.5):
    return InstanceData(keypoints=np.array([[[x, 100.0], [3.0, 4.0]]]), keypoint_scores=np.array([[score, 0.25]]))


@pytest.mark.parametrize(('change', 'matched', 'difference'), [
    (dict(x=7.02), 2, 2e-4), (dict(x=7.04), 1, 0), (dict(score=0.5001), 2, 2e-4), (dict(score=0.5002), 1, 0),
    (dict(x=float('nan')), 1, 0), (dict(), 2, 0)])
def test_places_and_scores_count(change, matched, difference):
    agreement = compare_keypoints(keypoints(), keypoints(**change))
    assert (agreement.matched, agreement.total, agreement.explained) == (matched, 2, 0)
    assert agreement.difference == pytest.approx(difference)
    assert bool(agreement.text) == (matched == 1)


def test_two_positions_may_share_the_maximum():
    """The x of the first keypoint is undecided, that of the second is not."""
    across = torch.tensor([[[0.1, 0.5, 0.2, 0.5 + 1e-5], [0.1, 0.2, 0.6, 0.3]]])
    down = torch.tensor([[[0.7, 0.5, 0.2], [0.6, 0.1, 0.3]]])
    assert compare_keypoints(keypoints(), keypoints(90.0), [across, down])[:4] == (0, 1, 2, 1)
    assert compare_keypoints(keypoints(), keypoints(90.0), [down]).text
    assert compare_keypoints(keypoints(), keypoints(90.0, 0.49), [across, down]).text  # another score
    moved = keypoints()
    moved.keypoints[0, 1, 0] += 1
    assert compare_keypoints(keypoints(), moved, [across, down]).text
    heatmap = torch.zeros(1, 2, 3, 4)
    heatmap[0, 0, 0, 1] = heatmap[0, 0, 2, 2] = heatmap[0, 1, 1, 1] = 1
    assert compare_keypoints(keypoints(), keypoints(90.0), [heatmap]).explained == 1
    assert compare_keypoints(keypoints(), moved, [heatmap]).explained == 0


def test_what_differs_is_named():
    assert compare_keypoints(keypoints(), keypoints(8.0, 0.4)).text == (
        '1 of the keypoints differs, most number 0, which is at (7.00, 100.00) with a score of 0.50000 in PyTorch and '
        'at (8.00, 100.00) with 0.40000 in the file')
    other = InstanceData(keypoints=np.zeros((1, 3, 2)), keypoint_scores=np.zeros((1, 3)))
    assert compare_keypoints(keypoints(), other).text == (
        'keypoints and scores have the shapes (1, 2, 2) and (1, 2) in PyTorch, (1, 3, 2) and (1, 3) in the file')
