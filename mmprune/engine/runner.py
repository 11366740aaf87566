"""What pruning needs of a Runner: its model without wrappers, its optimizers, averaged copies and training data."""
import copy
import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any, List, Mapping, Optional, Type, TypeVar

import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import EMAHook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend
from torch import Tensor, nn

from ..arguments import UserError, WrongTypeError
from ..criteria.calibration import Calibration
from ..models.pruning_algorithm import PruningAlgorithm
from ..report.structure_picture import structure_image
from ..units.structure import write_structure
from .distributed import ShrinkingDDP
from .first_batch import watch_first_batch
from .seeded_data import drawn

#: What a prune run writes besides a checkpoint: how many channels stay, and which, apart from the weights.
FIX_SUBNET_JSON, KEPT_JSON = 'fix_subnet.json', 'kept_channels.json'
Algorithm = TypeVar('Algorithm', bound=PruningAlgorithm)


def unwrapped(runner: Runner) -> nn.Module:
    """Return the runner's model without its distributed wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def algorithm_of(runner: Runner, name: str, kind: Type[Algorithm], wrapper: Type[ShrinkingDDP], what: str) -> Algorithm:
    """Return the runner's model for a hook that prunes it, watch its first batch, let averaged copies (EMA) be cut too.

    Raises:
        TypeError: The model or its wrapper is of another kind; ``name`` is the hook's, ``what`` needs the wrapper.
    """
    model = unwrapped(runner)
    if not isinstance(model, kind):
        raise WrongTypeError(f'{name} needs a {kind.__name__}, the model is {type(model).__name__}')
    if model is not runner.model and not isinstance(runner.model, wrapper):
        raise WrongTypeError(f'the model is wrapped in {type(runner.model).__name__}, whose parameters cannot shrink: '
                        f"{what} needs model_wrapper_cfg=dict(type='mmprune.{wrapper.__name__}')")
    watch_first_batch(runner, model)
    followers = [AveragedFollower(hook.ema_model) for hook in runner.hooks if isinstance(hook, EMAHook)]
    for follower in followers:
        follower.begin(model)
    model.followers = [*followers]
    return model


def save_pruned(runner: Runner, algorithm: PruningAlgorithm, name: str, kept: bool = False) -> None:
    """Write a checkpoint of the pruned model and its structure to the work dir, whole or not at all.

    Visualizers with a board, such as TensorBoard, get a picture of the structure.

    Args:
        runner (Runner): Its work dir is used.
        algorithm (PruningAlgorithm): Its model without wrapper.
        name (str): File name of the checkpoint.
        kept (bool): Write which channels stay, too.
    """
    folder, temporary = Path(runner.work_dir), f'.{name}.tmp'
    runner.save_checkpoint(runner.work_dir, temporary, save_optimizer=False, save_param_scheduler=False)
    if dist.is_main_process():
        os.replace(folder / temporary, folder / name)
        write_structure(algorithm.mutator.portable_structure, folder / FIX_SUBNET_JSON)
        if kept:
            channels = {unit: vector.nonzero()[0].tolist() for unit, vector in algorithm.mutator.kept.items()}
            write_structure(channels, folder / KEPT_JSON)
        _show(runner, algorithm, name)


def _show(runner: Runner, algorithm: PruningAlgorithm, name: str) -> None:
    """Give visualizers with a board a picture of the structure; images of the local one would be files of their own."""
    every = getattr(getattr(runner, 'visualizer', None), '_vis_backends', {})
    backends = [backend for backend in every.values() if not isinstance(backend, LocalVisBackend)]
    if backends and importlib.util.find_spec('matplotlib') is None:
        runner.logger.warning('matplotlib is not installed, so the visualizer gets no picture of the structure')
    elif backends:
        mutator = algorithm.mutator
        image = structure_image(mutator.structure, mutator.dense_widths, f'Channels before and after pruning: {name}')
        for backend in backends:
            backend.add_image('structure', image, step=runner.iter + 1)


class AveragedFollower:
    """Cuts an averaged copy (EMA) as the model is cut, with the snapshot of tensors that it averages into."""

    def __init__(self, averaged: BaseAveragedModel) -> None:
        self.averaged = averaged
        self.refresh()  # loading a checkpoint may have cut the copy

    @property
    def has_begun(self) -> bool:
        """Whether anything has been averaged yet; until then the copy is the model."""
        return int(self.averaged.steps) > 0

    def begin(self, model: nn.Module) -> None:
        """Take the values of the model where nothing has been averaged yet.

        EMAHook copies the model before its weights are loaded, and again at its first update, which never comes in a
        run that trains nothing.
        """
        if not self.has_begun:
            values = model.state_dict()
            for name, tensor in self.averaged.module.state_dict().items():
                tensor.copy_(values[name])

    def take_orders(self, orders: Mapping[str, np.ndarray]) -> None:
        """Let the dimensions of heads stand as in the model."""
        self.averaged.module.mutator.take_orders(orders)

    def cut(self, masks: Mapping[str, np.ndarray]) -> None:
        """Cut the copy as the model was cut."""
        self.averaged.module.mutator.cut(masks)
        self.refresh()

    def refresh(self) -> None:
        """Take the snapshot again: it is a state dict, whose tensors are still those before the cut."""
        if self.averaged.update_buffers:
            self.averaged.avg_parameters = self.averaged.module.state_dict()


def optimizers_of(runner: Runner) -> List[torch.optim.Optimizer]:
    """Return the optimizers of a run."""
    wrapper: Any = runner.optim_wrapper
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [each.optimizer for each in wrappers]


def calibration_of(runner: Runner, algorithm: PruningAlgorithm, batches: int) -> Calibration:
    """Return a number of training batches of a run, drawn by its seed, and how the model computes their loss.

    The run's own data loader and random state do not move.
    """
    size = runner.train_dataloader.batch_size or 1
    architecture: Any = algorithm.architecture
    return Calibration(training_batches(runner, batches * size, size), partial(loss_of, architecture),
                       lambda batch: _labels(batch).to(next(architecture.parameters()).device))


def training_batches(runner: Runner, images: int, size: int) -> List[Any]:
    """Return training samples of a run in batches, drawn by its seed; its data loader and random state do not move.

    Args:
        runner (Runner): After its data loader is built.
        images (int): How many samples; all where there are fewer.
        size (int): Samples of a batch.
    """
    return drawn(runner.train_dataloader, images, size, int(runner.seed or 0))


def loss_of(architecture: Any, batch: Any) -> Tensor:
    """Return the loss ``Tensor[]`` of a model on a batch of :func:`training_batches`."""
    data = architecture.data_preprocessor(copy.deepcopy(batch), True)
    total: Tensor = architecture.parse_losses(architecture._run_forward(data, mode='loss'))[0]
    return total


def _labels(batch: Any) -> Tensor:
    """Return the class of each image of a batch, ``LongTensor[N]``; raise UserError if samples have no label."""
    samples: Optional[Any] = batch.get('data_samples') if isinstance(batch, Mapping) else batch[1]
    if isinstance(samples, Tensor):
        return samples
    labels: List[Any] = [getattr(getattr(sample, 'gt_label', None), 'label', getattr(sample, 'gt_label', None))
                         for sample in samples or []]
    if not labels or any(label is None for label in labels):
        raise UserError('the samples have no gt_label: a criterion that discriminates classes needs a classifier')
    return torch.cat([label.reshape(-1)[:1] for label in labels])
