"""The batches of a repair, and the portions in which a CPU takes them."""
import torch
from torch import nn

from mmprune.repair.batches import portions_of, rows_of


def test_portions_of_a_batch_are_held_back_together():
    images = torch.arange(60.0).reshape(30, 2)
    batches = [images[:12], {'x': images[:3]}, images[12:23]]
    parts, held = portions_of(nn.Linear(2, 2), batches, [2])
    assert [rows_of(part) for part in parts] == [6, 6, 3, 6, 5]
    assert held == {3, 4}
    assert parts[2] is batches[1]
    assert torch.equal(torch.cat([parts[0], parts[1]]), batches[0])
