"""A hook and a wrapper for the distributed tests, imported by the config of the run."""
import multiprocessing
import os
import signal
import time

import torch
from mmengine import dist
from mmengine.hooks import Hook

from mmprune.engine.distributed import GroupFisherDDP
from mmprune.engine.runner import unwrapped
from mmprune.registry import HOOKS, MODEL_WRAPPERS


@HOOKS.register_module()
class RankProbe(Hook):
    """Write every rank's state at the end, with its losses and the sizes of its images."""

    def before_train(self, runner):
        self.sizes = set()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.sizes.update(tuple(image.shape[-2:]) for image in data_batch['inputs'])

    def after_train(self, runner):
        model = unwrapped(runner)
        fields = dict(state=model.state_dict(), iterations=getattr(model, 'iterations', runner.iter),
                      losses=runner.message_hub.get_scalar('train/loss').data[0].tolist(),
                      sizes=sorted(self.sizes))
        torch.save(fields, os.path.join(runner.work_dir, f'rank{dist.get_rank()}.pt'))


@HOOKS.register_module()
class Dies(Hook):
    """Kill rank 1 in an iteration, and note when."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration and dist.get_rank() == 1:
            with open(os.path.join(runner.work_dir, 'died'), 'w') as file:
                file.write(str(time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class WorkerDies(Hook):
    """Kill a worker of the data loader in an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)


@MODEL_WRAPPERS.register_module()
class WithoutSync(GroupFisherDDP):
    """What a wrapper that bypasses DDP does: every rank follows its own gradients."""

    def train_step(self, data, optim_wrapper):
        with self.no_sync():
            return super().train_step(data, optim_wrapper)
