"""How long a forward pass takes, for the table of :meth:`Pruner.report`."""
import torch

from ..criteria.calibration import calibrating
from ..deploy.runtimes.pytorch import Torch
from ..deploy.timing import time_in_turns
from ..units.mutator import ChannelMutator

#: Timed forward passes.
TIMED = 5


def forward_ms(mutator: ChannelMutator) -> float:
    """Return the median time of a forward pass on the example inputs in ms, in eval mode, on the model's device."""
    model = mutator.model
    device = next((parameter.device for parameter in model.parameters()), torch.device('cpu'))
    runtime = Torch(torch.get_num_threads(), device=str(device))
    with calibrating(model):
        return time_in_turns({'model': lambda: runtime.opened(lambda _: mutator.demo_input(model), torch.empty(0))},
                             TIMED)['model'].median
