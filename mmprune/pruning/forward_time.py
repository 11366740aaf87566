"""How long a forward pass takes, for the table of :meth:`Pruner.report`."""
import statistics
import time

import torch

from ..criteria.calibration import calibrating
from ..units.mutator import ChannelMutator

#: Timed forward passes, after one to warm up.
TIMED = 5


def forward_ms(mutator: ChannelMutator) -> float:
    """Return the median time of a forward pass on the example inputs in ms, in eval mode, on the model's device."""
    model = mutator.model
    device = next((parameter.device for parameter in model.parameters()), torch.device('cpu'))
    times = []
    with calibrating(model):
        for _ in range(TIMED + 1):
            began = time.perf_counter()
            mutator.demo_input(model)
            if device.type == 'cuda':
                torch.cuda.synchronize(device)
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[1:])
