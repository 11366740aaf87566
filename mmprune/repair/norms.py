"""Statistics of batch norms, measured anew on some images."""
from typing import Any, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..graph.demo_input import ExampleInputs

Statistics = Dict[str, Tuple[Tensor, Tensor]]


def norms_of(model: nn.Module) -> Dict[str, Any]:
    """Return name -> module of the batch norms that keep running statistics."""
    return {name: module for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None}


def statistics(model: nn.Module) -> Statistics:
    """Return norm -> copies of its running mean and variance."""
    return {name: (norm.running_mean.clone(), norm.running_var.clone()) for name, norm in norms_of(model).items()}


def set_statistics(model: nn.Module, values: Statistics) -> None:
    """Let norms have the statistics that :func:`statistics` returned."""
    for name, norm in norms_of(model).items():
        norm.running_mean.copy_(values[name][0])
        norm.running_var.copy_(values[name][1])


def recalibrate(model: nn.Module, batches: Sequence[Any]) -> None:
    """Set each norm's running mean and variance to the average of those of the batches, as it sees them in training.

    Everything else is as in eval mode; nothing but the statistics changes. A norm that does not run keeps its
    own.

    Args:
        model (nn.Module): The model.
        batches (list): What it is called with.
    """
    norms = norms_of(model)
    before: List[Tuple[Any, Any, Any]] = []
    for norm in norms.values():
        counted = norm.num_batches_tracked
        before.append((norm.momentum, norm.training, None if counted is None else counted.clone()))
    own = statistics(model)
    try:
        for norm in norms.values():
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None
        with torch.no_grad():
            for batch in batches:
                ExampleInputs(batch)(model)
    finally:
        for (name, norm), (momentum, training, counted) in zip(norms.items(), before):
            if not norm.num_batches_tracked:  # it has not run
                norm.running_mean.copy_(own[name][0])
                norm.running_var.copy_(own[name][1])
            norm.momentum, norm.training = momentum, training
            if counted is not None:
                norm.num_batches_tracked.copy_(counted)
