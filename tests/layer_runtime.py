"""A runtime whose times follow from shapes, with a little noise: what a table predicts of it can be known."""
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from mmprune.deploy import timing
from mmprune.deploy.runtimes.runtime import NodeTime, Runtime
from mmprune.deploy.timing import Latency, Timing
from mmprune.graph.watching import watched
from mmprune.latency import meter
from mmprune.registry import RUNTIMES


def node_ms(module, inputs, output):
    """Return the milliseconds of a layer: a constant, what it moves, and its multiply-adds."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        macs = output.numel() * module.weight[0].numel()
        return 0.01 + 1e-6 * inputs.numel() + 2e-6 * output.numel() + 2e-7 * macs
    return 0.002 + 1e-6 * output.numel()


@RUNTIMES.register_module(force=True)
class FakeRuntime(Runtime):
    """Times modules by :func:`node_ms`.

    Args:
        threads (int): Not used.
        noise (float): Relative deviation of every time.
        overhead (float): Factor between the sum of the layers and a run.
        seed (int, optional): Of the noise.
        lie (float): Factor by which pruned networks are slower than the table can know.
        slow (float): Share of the sessions in which everything takes a third longer.
    """

    name = 'fake'

    def __init__(self, threads=1, noise=0.0, overhead=1.1, lie=1.0, seed=None, slow=0.0):
        super().__init__(threads)
        self.noise, self.overhead, self.slow = noise, overhead, slow
        self.random = np.random.RandomState(seed)  # without a seed, what is measured twice differs
        self.lie = lie

    def version(self):
        return '1'

    def device_name(self):
        return 'nothing'

    def prepare(self, model, x, path):
        return model

    def nodes(self, model, x):
        found = []

        def after(name, module, args, kwargs, out):
            found.append((name, module, args[0], out))

        leaves = [item for item in model.named_modules() if isinstance(item[1], (nn.Conv2d, nn.Linear, nn.ReLU))]
        with torch.no_grad(), watched(leaves, after=after):
            model(x)
        return found

    def factor(self):
        return 1 + self.noise * self.random.randn()

    def session(self):
        return 4 / 3 if self.slow and self.random.rand() < self.slow else 1.0

    @contextmanager
    def opened(self, source, x):
        yield lambda: None

    def exact_ms(self, model, x):
        return 0.3 + self.overhead * sum(node_ms(*rest) for _, *rest in self.nodes(model, x))

    def median_ms(self, source, x, seconds, least_runs, clock=None):
        return self.exact_ms(source, x) * self.factor() * self.session()

    def profiled(self, source, x, runs=12):
        session = self.session()
        return [NodeTime(name, type(module).__name__, node_ms(module, inputs, out) * self.factor() * session,
                         (tuple(inputs.shape), *(tuple(p.shape) for p in module.parameters())), (tuple(out.shape), ))
                for name, module, inputs, out in self.nodes(source, x)]


class Streams(nn.Module):
    """A residual stream, a depthwise layer and a concat: layers that read one unit, the same one, and two."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 32, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.b = nn.Conv2d(32, 48, 1)
        self.join, self.out = nn.Conv2d(80, 64, 3, padding=1), nn.Conv2d(64, 5, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = x + self.a2(self.relu(self.a1(x)))
        x = self.relu(self.depthwise(x))
        return self.out(self.relu(self.join(torch.cat([x, self.relu(self.b(x))], 1))))


def fake_measure(candidates, x, rounds=30, seconds=60.0, turns=3):
    """Time models as :func:`mmprune.deploy.timing.measure` does, by what the fake runtime says."""
    if not all(isinstance(one.runtime, FakeRuntime) for one in candidates.values()):
        return timing.measure(candidates, x, rounds, seconds, turns=turns)
    found = {}
    for name, one in candidates.items():
        factor = one.runtime.lie if name == 'pruned' else 1.0
        milliseconds = factor * one.runtime.exact_ms(one.source, x) * one.runtime.factor()
        found[name] = Latency((milliseconds, ) * 3, (milliseconds, ) * 3)
    return Timing(found, {name: one.runtime.describe() for name, one in candidates.items()}, ())


meter.measure = fake_measure  # by name, as a process of its own has to take it, too
