"""Sparsity training: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017."""
from typing import Any, List

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...arguments import WrongTypeError, number
from ...criteria.bn_sparsity import bn_sparsity_, norm_scales
from ...models.pruning_algorithm import PruningAlgorithm
from ...registry import HOOKS
from ..runner import optimizers_of, unwrapped


@HOOKS.register_module()
class SparsityTrainingHook(Hook):
    """Train with the penalty ``s * sum |gamma|`` on the scales of the norms (equation 1), by its subgradient.

    It is added to the gradients right before the optimizer's step: after scaling, clipping, accumulation and the
    average over ranks, none of which change it.

    Args:
        s (float): Strength; the paper takes 1e-4 or 1e-5.
        all_norms (bool): All norms of the model, as in the paper; else only those whose channels may be pruned, which
            needs a :class:`~mmprune.models.pruning_algorithm.PruningAlgorithm`.
    """

    def __init__(self, s: float = 1e-4, all_norms: bool = True) -> None:
        self.s = number('SparsityTrainingHook: s', s, 0, 1, 'it is the strength of a penalty')
        self.all_norms = all_norms
        self._handles: List[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Find the scales, and add their penalty before each optimizer's step."""
        model = unwrapped(runner)
        scales = list(norm_scales(model))
        if not self.all_norms:
            if not isinstance(model, PruningAlgorithm):
                raise WrongTypeError('SparsityTrainingHook: all_norms=False needs a PruningAlgorithm, which knows what '
                                     f'may be pruned; the model is {type(model).__name__}')
            tensors = dict(model.architecture.named_parameters())
            pruned = {id(tensors[name]) for name in model.mutator.surgery.members if name in tensors}
            scales = [scale for scale in scales if id(scale) in pruned]
        bn_sparsity_(scales, 0.0)  # raises if the model has no norm
        self._scales = scales
        for optimizer in optimizers_of(runner):
            trained = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
            mine = [scale for scale in scales if id(scale) in trained]
            if mine:
                self._handles.append(optimizer.register_step_pre_hook(lambda *_, own=mine: bn_sparsity_(own, self.s)))

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the mean scale, and the share of scales below 0.01."""
        sizes = [scale.detach().abs() for scale in self._scales]
        count = sum(scale.numel() for scale in sizes)
        mean = float(sum(scale.sum() for scale in sizes)) / count
        small = sum(int((scale < 0.01).sum()) for scale in sizes) / count
        runner.message_hub.update_scalar('train/norm_scale', mean)
        runner.logger.info(f'norm scales: {mean:.4f} on average, {small:.1%} of {count} below 0.01')

    def after_train(self, runner: Runner) -> None:
        """Remove the penalty from the optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
