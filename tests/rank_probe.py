"""A hook and a wrapper for the distributed tests, imported by the config of the run."""
import os

import torch
from mmengine import dist
from mmengine.hooks import Hook

from mmprune.distributed import GroupFisherDDP
from mmprune.hooks import unwrapped
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


@MODEL_WRAPPERS.register_module()
class WithoutSync(GroupFisherDDP):
    """What a wrapper that bypasses DDP does: every rank follows its own gradients."""

    def train_step(self, data, optim_wrapper):
        with self.no_sync():
            return super().train_step(data, optim_wrapper)
