"""Finetune a pruned student with its dense teacher, by predictions (DIST) or feature maps (channel-wise)."""
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Type, Union

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..arguments import UserError, WrongTypeError, nearest, number
from ..graph.watching import watched
from ..registry import MODELS, build
from .checkpoint import load_weights
from .prune_sub_model import kept_outputs


def pearson_distance(left: Tensor, right: Tensor) -> Tensor:
    """Return ``1 - mean correlation`` of the rows of two matrices ``Tensor[N, C]``."""
    left = left - left.mean(1, keepdim=True)
    right = right - right.mean(1, keepdim=True)
    return 1 - nn.functional.cosine_similarity(left, right, dim=1, eps=1e-8).mean()


def temperature(tau: Any) -> float:
    """Return the temperature of a softmax; raise UserError for what is none."""
    return number('tau', tau, 0, 1000, 'it is a temperature', above=True)


@MODELS.register_module()
class ChannelWiseDivergence(nn.Module):
    """Compare where channels of feature maps are active: Shu et al., Channel-wise Knowledge Distillation, ICCV 2021.

    The Kullback-Leibler divergence of the student's softmax over the positions of a channel from the teacher's, as mean
    over channels and samples.

    Args:
        loss_weight (float): Weight of the loss.
        tau (float): Temperature of the softmax; the loss is multiplied by its square.
    """

    def __init__(self, loss_weight: float = 1.0, tau: float = 1.0) -> None:
        super().__init__()
        self.loss_weight, self.tau = number('loss_weight', loss_weight, 0, 1e6), temperature(tau)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of feature maps ``Tensor[N, C, H, W]`` as a scalar."""
        student = (student.float().flatten(2) / self.tau).log_softmax(2)
        teacher = (teacher.float().flatten(2) / self.tau).log_softmax(2)
        divergence = (teacher.exp() * (teacher - student)).sum(2)
        return self.loss_weight * self.tau**2 * divergence.mean()


@MODELS.register_module()
class DISTLoss(nn.Module):
    """Match relations of predictions: Huang et al., Knowledge Distillation from a Stronger Teacher, NeurIPS 2022.

    Args:
        inter_weight (float): Weight of the relation between classes, per sample.
        intra_weight (float): Weight of the relation between samples, per class.
        tau (float): Temperature of the softmax; the loss is multiplied by its square.
    """

    def __init__(self, inter_weight: float = 2.0, intra_weight: float = 2.0, tau: float = 1.0) -> None:
        super().__init__()
        self.inter_weight = number('inter_weight', inter_weight, 0, 1e6)
        self.intra_weight = number('intra_weight', intra_weight, 0, 1e6)
        self.tau = temperature(tau)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of logits ``Tensor[N, classes]`` as a scalar."""
        student = (student.float() / self.tau).softmax(1)
        teacher = (teacher.float() / self.tau).softmax(1)
        inter = pearson_distance(student, teacher)
        intra = pearson_distance(student.t(), teacher.t())
        return self.tau**2 * (self.inter_weight * inter + self.intra_weight * intra)


@contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[Dict[str, List[Tensor]]]:
    """Collect the outputs of modules inside the context, call by call; yields module name -> outputs."""
    outputs: Dict[str, List[Tensor]] = {name: [] for name in names}
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            raise UserError(f'outputs: the model has no module {name!r}{nearest(name, list(modules))}')

    def record(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise WrongTypeError(f'outputs: module {name!r} puts out a {type(output).__name__}; name modules that put '
                            'out one tensor each')
        outputs[name].append(output)

    with watched([(name, modules[name]) for name in names], after=record):
        yield outputs


class _Teacher:
    """The frozen dense model; it is not in the student's state dict, parameters or copies."""

    def __init__(self, model: nn.Module, student: nn.Module, names: Sequence[str]) -> None:
        with _recorded(model, names):
            pass  # raises on a wrong name
        self.model, self.names = model.eval().requires_grad_(False), list(names)
        kept = {name: kept_outputs(student, name) for name in names}
        self.kept = {name: torch.from_numpy(index) for name, index in kept.items() if index is not None}
        # if only backbone and neck are compared, the head need not run
        self.features_only = hasattr(model, 'extract_feat') and all(
            name.split('.')[0] in ('backbone', 'neck') for name in names)

    def outputs(self, inputs: Tensor, data_samples: Any) -> Dict[str, List[Tensor]]:
        """Run the teacher; return module name -> its outputs, call by call, with the channels that the student has."""
        with _recorded(self.model, self.names) as recorded, torch.no_grad():
            if self.features_only:
                self.model.extract_feat(inputs)
            else:
                self.model(inputs, data_samples, mode='tensor')
        return {name: [output.index_select(1, self.kept[name].to(output.device)) if name in self.kept else output
                       for output in outputs] for name, outputs in recorded.items()}

    def __deepcopy__(self, memo: Dict[int, Any]) -> '_Teacher':
        return self


def _pairs(name: str, student: List[Tensor], teacher: List[Tensor]) -> List[Tuple[Tensor, Tensor]]:
    """Return the outputs of a module in both models, call by call."""
    if [output.shape for output in student] != [output.shape for output in teacher]:
        raise UserError(f'outputs: {name!r} puts out {[tuple(output.shape) for output in student]} in the student, '
                        f'{[tuple(output.shape) for output in teacher]} in the teacher; name layers with weights, '
                        'such as the convolution inside a block, that run equally often in both')
    return list(zip(student, teacher))


class DistilledMixin:
    """Adds the distillation loss to the losses of a model, and changes nothing else."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Run the model; in mode ``loss``, run the teacher on the same inputs too."""
        if mode != 'loss':
            return super().forward(inputs, data_samples, mode=mode)  # type: ignore[misc]
        teacher: _Teacher = self._teacher  # type: ignore[attr-defined]
        with _recorded(self, teacher.names) as recorded:  # type: ignore[arg-type]
            losses = super().forward(inputs, data_samples, mode='loss')  # type: ignore[misc]
        wanted = teacher.outputs(inputs, data_samples)
        losses['loss_dist'] = sum(
            self._distill_loss(*pair) for name in teacher.names  # type: ignore[attr-defined]
            for pair in _pairs(name, recorded[name], wanted[name]))
        return losses

    def _apply(self, fn: Any, *args: Any) -> Any:
        self._teacher.model._apply(fn)  # type: ignore[attr-defined]
        return super()._apply(fn, *args)  # type: ignore[misc]


_DISTILLED: Dict[Type[nn.Module], Type[nn.Module]] = {}


@MODELS.register_module()
def DistilledSubModel(student: dict, teacher: dict, distill_loss: Optional[dict] = None,  # noqa: N802
                      outputs: Union[str, Sequence[str]] = 'head.fc',
                      data_preprocessor: Optional[dict] = None) -> nn.Module:
    """Build a pruned student that learns from a dense teacher, from the channels that both have.

    Args:
        student (dict): A :func:`~mmprune.models.prune_sub_model.GroupFisherSubModel`.
        teacher (dict): The dense model, its ``init_cfg=dict(type='Pretrained', checkpoint=...)`` required.
        distill_loss (dict): Defaults to ``dict(type='DISTLoss')``; summed over all outputs.
        outputs (str or list[str]): Modules whose outputs are compared; pruned modules must be layers with weights.
        data_preprocessor (dict, optional): Given to both models.

    Returns:
        nn.Module: The student; its checkpoints do not contain the teacher.

    Raises:
        UserError: The teacher has no weights, or a module does not exist.
        CheckpointError: The teacher's checkpoint is missing or does not fit.
    """
    student, teacher = dict(student), dict(teacher)
    if data_preprocessor is not None:
        student.setdefault('data_preprocessor', data_preprocessor)
        teacher.setdefault('data_preprocessor', data_preprocessor)
    init_cfg = teacher.pop('init_cfg', None)
    if not isinstance(init_cfg, dict) or 'checkpoint' not in init_cfg:
        raise UserError("the teacher needs weights: init_cfg=dict(type='Pretrained', checkpoint=...)")
    model, dense = MODELS.build(student), MODELS.build(teacher)
    load_weights(dense, init_cfg['checkpoint'], 'teacher')
    if not isinstance(model, BaseModel):
        raise WrongTypeError(f'the student must be an OpenMMLab model, not {type(model).__name__}')
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    plain = type(model)
    if plain not in _DISTILLED:
        _DISTILLED[plain] = type(f'Distilled{plain.__name__}', (DistilledMixin, plain), {})
    object.__setattr__(model, '_teacher', _Teacher(dense, model, names))
    object.__setattr__(model, '_distill_loss', build(MODELS, distill_loss or dict(type='DISTLoss')))
    model.__class__ = _DISTILLED[plain]
    return model
