"""Boxes are matched one to one; what only rounding decides is explained, and nothing else is."""
import pytest
import torch
from mmengine.structures import InstanceData

from mmprune.deploy.box_match import TOLERANCE, Rules, compare_boxes, gaps, overlaps

BOXES = [[0, 0, 10, 10], [50, 50, 100, 80], [20, 20, 30, 40]]


def detections(boxes=BOXES, scores=(0.9, 0.8, 0.5), labels=(1, 1, 2)):
    return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4), scores=torch.tensor(scores),
                        labels=torch.tensor(labels, dtype=torch.long))


def test_order_does_not_matter():
    assert compare_boxes(detections(), detections()[[2, 0, 1]])[:4] == (0, 3, 3, 0)


@pytest.mark.parametrize(('change', 'matched'), [
    (dict(boxes=[[0, 0, 10, 10.002], *BOXES[1:]]), 3),  # 0.0002 of its side, which is 10
    (dict(boxes=[[0, 0, 10, 10.005], *BOXES[1:]]), 2),
    (dict(boxes=[BOXES[0], [50, 50, 100, 80.01], BOXES[2]]), 3),  # 0.0002 of its longer side
    (dict(scores=(0.9, 0.8, 0.50005)), 3), (dict(scores=(0.9, 0.8, 0.5001)), 2),  # logits of 0.0002 and 0.0004
    (dict(labels=(1, 2, 2)), 2)])
def test_boxes_scores_and_labels_count(change, matched):
    agreement = compare_boxes(detections(), detections(**change))
    assert (agreement.matched, agreement.total) == (matched, 3)
    assert agreement.difference == pytest.approx(2e-4 if matched == 3 else 0, rel=0.01)
    assert bool(agreement.text) == (matched == 2)


def test_a_box_counts_once_and_one_without_an_area_not_at_all():
    twice = detections([BOXES[0], BOXES[0], BOXES[2]])
    assert compare_boxes(twice, detections([BOXES[0], [5, 5, 5, 9], BOXES[2]], (0.9, 0.8, 0.5))).matched == 2
    assert compare_boxes(detections(), detections([*BOXES, [5, 5, 9, 5]], (0.9, 0.8, 0.5, 0.4), (1, 1, 2, 0)))[:4] == (
        0, 3, 3, 0)
    assert compare_boxes(detections(), detections([], (), ()))[:3] == (0, 0, 3)


def test_confident_scores_are_compared_by_what_float32_holds_of_them():
    """The logits of 1 - 2e-7 and 1 - 1.2e-7 are half apart, their scores one digit; those of 0.01 are exact."""
    one = torch.tensor(1.0)
    sure = [float(torch.nextafter(one, -one)), float(torch.nextafter(torch.nextafter(one, -one), -one))]
    left, right = (detections(scores=(score, 0.8, 0.01)) for score in sure)
    assert compare_boxes(left, right).matched == 3
    assert compare_boxes(left, detections(scores=(sure[0], 0.8, 0.01001))).matched == 3
    assert compare_boxes(left, detections(scores=(sure[0], 0.8, 0.01002))).matched == 2


def test_boxes_at_the_score_threshold_do_not_count():
    rules = Rules(score=0.4)
    more = [*BOXES, [60, 0, 70, 10]], (0.9, 0.8, 0.5, 0.40003), (1, 1, 2, 0)
    for pair in ((detections(*more), detections()), (detections(), detections(*more))):
        assert compare_boxes(*pair, rules)[:4] == (0, 3, 3, 0)
        assert compare_boxes(*pair, rules._replace(score=0.3)).text


def test_boxes_beyond_the_last_do_not_count():
    """A file with two boxes at most has the best two; one of the best must not be missing."""
    rules, all_boxes = Rules(most=(None, 2)), detections()
    assert compare_boxes(all_boxes, all_boxes[:2], rules)[:4] == (0, 2, 2, 0)
    assert compare_boxes(all_boxes, all_boxes[[0, 2]], rules).text.startswith('1 box is in PyTorch alone')
    assert compare_boxes(all_boxes, all_boxes[:1], rules).text.startswith('2 boxes are in PyTorch alone')
    flat = detections([BOXES[0], [5, 5, 5, 9]], (0.9, 0.85), (1, 1))  # one of its two places has no area
    assert compare_boxes(all_boxes, flat, rules)[:4] == (0, 1, 1, 0)
    assert compare_boxes(all_boxes[:2], all_boxes, Rules(most=(2, None)))[:4] == (0, 2, 2, 0)


def test_overlaps():
    left = torch.tensor([[0., 0., 10., 10.], [0., 0., 0., 5.]])
    right = torch.tensor([[5., 0., 15., 10.], [20., 20., 30., 30.], [0., 0., 10., 10.]])
    assert torch.allclose(overlaps(left, right), torch.tensor([[1 / 3, 0, 1], [0, 0, 0]], dtype=torch.double))


def crowd(seed, count=60):
    """Return overlapping boxes of two classes, and a threshold that two of them overlap by; some have equal scores."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    size = 20 + 20 * torch.rand(count, 2, generator=generator)
    scores = 0.05 + 0.9 * torch.rand(count, generator=generator)
    boxes = InstanceData(bboxes=torch.cat([corner, corner + size], 1), scores=scores,
                         labels=torch.randint(0, 2, (count, ), generator=generator))
    twins = boxes[::7]
    twins.bboxes = twins.bboxes + 2
    boxes = InstanceData.cat([boxes, twins])
    best = nms(boxes, 0.5)[:10]
    both = overlaps(best.bboxes, boxes.bboxes)
    alike = (both > 0.45) & (both < 0.55) & (best.labels[:, None] == boxes.labels)
    return boxes, float(both[alike & (best.scores[:, None] > boxes.scores)][0])


def shaken(boxes, strength, seed):
    """Return the same boxes and scores with relative errors."""
    generator = torch.Generator().manual_seed(seed)
    return InstanceData(
        bboxes=boxes.bboxes * (1 + strength * torch.randn(boxes.bboxes.shape, generator=generator)),
        scores=boxes.scores * (1 + strength * torch.randn(boxes.scores.shape, generator=generator)).clamp(max=1),
        labels=boxes.labels)


def nms(boxes, threshold, most=None):
    """Return what the textbook's NMS keeps, by class."""
    alike = boxes.labels[:, None] == boxes.labels
    drops = ((overlaps(boxes.bboxes, boxes.bboxes) > threshold) & alike).tolist()
    kept = []
    for i in boxes.scores.argsort(descending=True).tolist():
        if not any(drops[i][j] for j in kept):
            kept.append(i)
    return boxes[kept[:most]]


def test_every_nms_of_the_same_boxes_is_accepted_and_of_others_refused():
    """The threshold is the overlap of two of the boxes and scores are equal: rounding alone decides what is kept."""
    decided, explained = 0, 0
    for seed in range(40):
        boxes, threshold = crowd(seed)
        rules = Rules(0.05, threshold, (None, 20))
        wanted, found = nms(boxes, threshold), nms(shaken(boxes, 2e-6, seed), threshold, 20)
        agreement = compare_boxes(wanted, found, rules, lambda proposals, boxes=boxes: boxes)
        assert not agreement.text, seed
        decided += bool(agreement.explained)
        explained += agreement.explained
        for strength in (1e-2, 3e-3):
            other = nms(shaken(boxes, strength, seed), threshold, 20)
            assert compare_boxes(wanted, other, rules, lambda proposals, boxes=boxes: boxes).text
        for change in (-0.05, 0.05):
            other = nms(boxes, threshold + change)
            assert compare_boxes(wanted, other, rules, lambda proposals, boxes=boxes: boxes).text
    assert decided > 15
    assert explained > 30


def test_a_box_that_the_network_has_not_is_never_explained():
    """It overlaps PyTorch's by the threshold, or has its score: the network itself must have it."""
    pair = detections([[0, 0, 10, 10], [0, 5, 10, 15]], (0.9, 0.8), (1, 1))  # overlap by 1 / 3
    rules = Rules(0.05, 1 / 3)
    assert not compare_boxes(pair, pair[:1], rules, lambda _: pair).text
    assert not compare_boxes(pair[:1], pair, rules, lambda _: pair).text
    assert compare_boxes(pair[:1], pair, rules, lambda _: pair[:1]).text
    moved = detections([[0, 0, 10, 10], [0, 5, 10, 15.1]], (0.9, 0.8), (1, 1))
    assert compare_boxes(pair, moved, rules, lambda _: pair).text
    assert compare_boxes(pair, pair[:1], rules._replace(overlap=0.5), lambda _: pair).text  # nothing near it
    assert compare_boxes(pair, pair[:1], rules._replace(overlap=None), lambda _: pair).text  # no NMS that is known


@pytest.mark.parametrize('two_stage', [True, False])
def test_a_few_boxes_may_come_from_other_proposals(two_stage):
    """The NMS of proposals keeps one of two at its threshold; the boxes that come of them overlap."""
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(40)]
    scores, labels = torch.linspace(0.9, 0.5, 40).tolist(), [0] * 40
    wanted, found = detections(boxes, scores, labels), detections(boxes, scores, labels)
    found.bboxes[7] += torch.tensor([0., 1, 0, 1])
    found.scores[7] -= 0.03
    calls = []

    def candidates(proposals):
        calls.append(proposals)
        return InstanceData.cat([wanted, found]) if proposals else wanted

    agreement = compare_boxes(wanted, found, Rules(0.05, 0.5, two_stage=two_stage), candidates)
    assert (agreement.matched, agreement.total, agreement.explained) == (39, 40, 2 if two_stage else 1)
    assert bool(agreement.text) != two_stage
    assert calls == ([False, True] if two_stage else [False, False, True])
    found.scores[:12] -= 0.03
    found.bboxes[:12] += torch.tensor([0., 1, 0, 1])
    assert compare_boxes(wanted, found, Rules(0.05, 0.5, two_stage=two_stage), candidates).text  # not so many


def test_a_file_may_have_places_that_the_limit_before_the_nms_leaves_out():
    """mmdet takes the best 3 pairs of place and class, a file the best 3 places: it has a box more, and no other."""
    boxes, scores, labels = [[20 * i, 0, 20 * i + 10, 10] for i in range(4)], (0.9, 0.8, 0.7, 0.6), [0] * 4
    everything, rules = detections(boxes, scores, labels), Rules(0.05, 0.5)

    def candidates(more):
        return everything if more else everything[:3]

    agreement = compare_boxes(everything[:3], everything, rules, candidates)
    assert (agreement.matched, agreement.explained, agreement.text) == (3, 1, '')
    assert compare_boxes(everything[:3], everything, rules, lambda _: everything[:3]).text  # no such place
    assert compare_boxes(everything[:3], everything, rules, lambda _: everything).text  # within the limit
    assert compare_boxes(everything, everything[:3], rules, candidates).text  # the file lacks it
    beside = detections([*boxes[:3], [40, 0, 50, 11]], scores, labels)  # its NMS had to drop it
    assert compare_boxes(everything[:3], beside, rules, lambda more: beside if more else beside[:3]).text


def test_what_differs_is_named():
    changed = detections([[0, 0, 10, 10], [50, 50, 100, 81], [20, 20, 30, 40]], (0.9, 0.79, 0.5))
    assert compare_boxes(detections(), changed).text == (
        '1 box is in PyTorch alone and 1 in the file alone, such as class 1 at (50.00, 50.00, 100.00, 80.00) with a '
        'score of 0.80000 in PyTorch, where the file has class 1 at (50.00, 50.00, 100.00, 81.00) with a score of '
        '0.79000, 0.044 apart')
    assert compare_boxes(detections()[:2], detections()).text == (
        '0 boxes are in PyTorch alone and 1 in the file alone, such as class 2 at (20.00, 20.00, 30.00, 40.00) with a '
        'score of 0.50000 in the file, where PyTorch has no box of this class')


def test_what_is_no_number_is_refused():
    broken = detections(scores=(0.9, float('nan'), 0.5))
    assert 'no numbers' in compare_boxes(detections(), broken, Rules(most=(3, 3))).text
    assert 'no numbers' in compare_boxes(detections(), detections([*BOXES[:2], [0, 0, float('inf'), 1]])).text


def test_gaps_of_small_boxes_are_relative_to_a_hundredth_of_the_image():
    small = detections([[0, 0, 1, 1], [0, 0, 1000, 1000]], (0.5, 0.6), (0, 0))
    other = detections([[0, 0, 1, 1.001], [0, 0, 1000, 1000]], (0.5, 0.6), (0, 0))
    assert float(gaps(small, other)[0, 0]) == pytest.approx(1e-4, rel=1e-3)
    assert TOLERANCE < 1e-3
