"""The modes of models, train and eval, kept for the time of a block."""
from contextlib import contextmanager
from typing import Iterator

import torch
from torch import nn


@contextmanager
def in_eval(*models: nn.Module) -> Iterator[None]:
    """Run the block with models in eval mode and without gradients; each module has its former mode after it."""
    modes = [{name: module.training for name, module in model.named_modules()} for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for model, before in zip(models, modes):
            for name, module in model.named_modules():
                module.training = before.get(name, module.training)
