"""Finetuning a pruned student with its dense teacher: DIST.

Huang et al., Knowledge Distillation from a Stronger Teacher, NeurIPS 2022.
"""
from typing import Any, Dict, List, Optional, Type

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .checkpoint import load_weights
from .registry import MODELS, build


def pearson_distance(left: Tensor, right: Tensor) -> Tensor:
    """Return ``1 - mean correlation`` of the rows of two matrices ``Tensor[N, C]``."""
    left = left - left.mean(1, keepdim=True)
    right = right - right.mean(1, keepdim=True)
    return 1 - nn.functional.cosine_similarity(left, right, dim=1, eps=1e-8).mean()


@MODELS.register_module()
class DISTLoss(nn.Module):
    """Distillation from a stronger teacher: match relations of predictions, not the predictions themselves.

    Args:
        inter_weight (float): Weight of the relation between classes, per sample.
        intra_weight (float): Weight of the relation between samples, per class.
        tau (float): Temperature of the softmax; the loss is multiplied by its square.
    """

    def __init__(self, inter_weight: float = 2.0, intra_weight: float = 2.0, tau: float = 1.0) -> None:
        super().__init__()
        self.inter_weight, self.intra_weight, self.tau = inter_weight, intra_weight, tau

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of logits ``Tensor[N, classes]`` as a scalar."""
        student = (student.float() / self.tau).softmax(1)
        teacher = (teacher.float() / self.tau).softmax(1)
        inter = pearson_distance(student, teacher)
        intra = pearson_distance(student.t(), teacher.t())
        return self.tau**2 * (self.inter_weight * inter + self.intra_weight * intra)


class _Teacher:
    """A frozen model that is no part of the student: not in its state dict, its parameters or its copies."""

    def __init__(self, model: nn.Module, logits: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.output: List[Tensor] = []
        record_output(self.model, logits, self.output)

    def __deepcopy__(self, memo: Dict[int, Any]) -> '_Teacher':
        return self


def record_output(model: nn.Module, name: str, into: List[Tensor]) -> RemovableHandle:
    """Append every output of a submodule to a list."""
    names = dict(model.named_modules())
    if name not in names:
        raise ValueError(f'logits: the model has no module {name!r}')
    return names[name].register_forward_hook(lambda module, args, out: into.append(out))


class DistilledMixin:
    """Adds the distillation loss to a model's own losses; everything else is the model's."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Run the model; in mode ``loss`` the teacher sees the same inputs."""
        if mode != 'loss':
            return super().forward(inputs, data_samples, mode=mode)  # type: ignore[misc]
        output: List[Tensor] = []
        handle = record_output(self, self._logits, output)  # type: ignore[arg-type, attr-defined]
        try:
            losses = super().forward(inputs, data_samples, mode='loss')  # type: ignore[misc]
        finally:
            handle.remove()
        teacher: _Teacher = self._teacher  # type: ignore[attr-defined]
        teacher.output.clear()
        with torch.no_grad():
            teacher.model(inputs, mode='tensor')
        losses['loss_dist'] = self._distill_loss(output[-1], teacher.output.pop())  # type: ignore[attr-defined]
        return losses

    def _apply(self, fn: Any, *args: Any) -> Any:
        self._teacher.model._apply(fn)  # type: ignore[attr-defined]
        return super()._apply(fn, *args)  # type: ignore[misc]


_DISTILLED: Dict[Type[nn.Module], Type[nn.Module]] = {}


@MODELS.register_module()
def DistilledSubModel(student: dict, teacher: dict, distill_loss: Optional[dict] = None,  # noqa: N802
                      logits: str = 'head.fc', data_preprocessor: Optional[dict] = None) -> nn.Module:
    """Build a pruned student that learns from a dense teacher.

    Args:
        student (dict): A :func:`~mmprune.sub_model.GroupFisherSubModel`.
        teacher (dict): The dense model, its ``init_cfg=dict(type='Pretrained', checkpoint=...)`` required.
        distill_loss (dict): Defaults to ``dict(type='DISTLoss')``.
        logits (str): Name of the module whose output is compared, in both models.
        data_preprocessor (dict, optional): Given to both models.

    Returns:
        nn.Module: The student; its checkpoints are those of a student without a teacher.
    """
    student, teacher = dict(student), dict(teacher)
    if data_preprocessor is not None:
        student.setdefault('data_preprocessor', data_preprocessor)
        teacher.setdefault('data_preprocessor', data_preprocessor)
    init_cfg = teacher.pop('init_cfg', None)
    if not isinstance(init_cfg, dict) or 'checkpoint' not in init_cfg:
        raise ValueError("the teacher needs weights: init_cfg=dict(type='Pretrained', checkpoint=...)")
    model = MODELS.build(student)
    dense = MODELS.build(teacher)
    load_weights(dense, init_cfg['checkpoint'], 'teacher')
    if not isinstance(model, BaseModel):
        raise TypeError(f'the student must be an OpenMMLab model, not {type(model).__name__}')
    plain = type(model)
    if plain not in _DISTILLED:
        _DISTILLED[plain] = type(f'Distilled{plain.__name__}', (DistilledMixin, plain), {})
    object.__setattr__(model, '_teacher', _Teacher(dense, logits))
    object.__setattr__(model, '_logits', logits)
    object.__setattr__(model, '_distill_loss', build(MODELS, distill_loss or dict(type='DISTLoss')))
    record_output(model, logits, []).remove()  # fail now on a wrong name
    model.__class__ = _DISTILLED[plain]
    return model
