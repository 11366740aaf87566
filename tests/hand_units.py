"""Channel units written by hand, for tests that compare with brute force."""
from dataclasses import dataclass, field

import torch

PER = {'act': 1e6, 'flops': 1e9, 'none': 1}


@dataclass
class Unit:
    """One unit by hand.

    Attributes:
        producers (dict): Layer -> ``[classes, k]`` rows.
        consumers (dict): Layer -> ``[classes, k]`` columns of its input.
        act (int): Output elements of the producers of one class, over all calls.
        flops (function): Kept channels by unit -> multiply-adds of one class in producers and consumers.
        norms (dict): Norm layer -> ``[classes, k]`` entries.
        columns (dict): Grouped layer -> ``[classes, k]`` columns of its weight, which are fewer than its inputs.
    """

    producers: dict
    consumers: dict
    act: int
    flops: object
    norms: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)

    @property
    def classes(self):
        return len(next(iter(self.producers.values())))

    @property
    def multiplicity(self):
        return len(next(iter(self.producers.values()))[0])

    def cost(self, kind, kept):
        return {'act': self.act, 'flops': self.flops(kept), 'none': 1}[kind] / PER[kind]


def span(start, count):
    """One channel a class: ``[[start], [start + 1], ...]``."""
    return [[start + c] for c in range(count)]


def blocks(count, size):
    """``size`` neighbours a class: ``[[0, 1], [2, 3], ...]``."""
    return [list(range(c * size, (c + 1) * size)) for c in range(count)]


def strided(count, sets):
    """Position c of each of ``sets`` groups: ``[[0, count], [1, count + 1], ...]``."""
    return [[c + s * count for s in range(sets)] for c in range(count)]


def loss_of(out):
    """A loss of a batch whose gradient differs from element to element."""
    outs = out if isinstance(out, list) else [out]
    return sum((o + 0.3).pow(2).sum() + o.sin().sum() for o in outs) / 3


def relative_error(ours, expected):
    """Return the largest relative error of any element."""
    return float(torch.where(ours == expected, 0.0, (ours - expected).abs() / expected.abs()).max())
