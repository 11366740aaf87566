"""Discrimination-aware channel pruning: Zhuang et al., NeurIPS 2018."""
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from ..arguments import number, whole_number
from ..graph.factors import DIMENSIONS
from ..graph.idle import CONV_OR_LINEAR
from ..registry import CRITERIA
from ..repair.windows import channels_first
from ..units.unit import ChannelUnit
from .calibration import Calibration
from .criterion import Criterion, CriterionError
from .inputs import inputs_seen, reading

#: Strength of the L2 penalty on the auxiliary classifier; without it separable classes have no minimum.
RIDGE = 1e-3
EPSILON = 1e-5


@CRITERIA.register_module()
class DCP(Criterion):
    """The order in which a greedy selection takes the channels that each layer reads (algorithm 2 of the paper).

    The selection starts empty. In each round the sets of channels with the largest Frobenius norm of ``dL/dW_k`` are
    added, then the weights of the selected sets are trained for a few steps. ``L(W) = L_M + discrimination * L_S``: the
    reconstruction error ``L_M = 1/(2Q) ||O - X * W||^2`` of the layer's ``Q`` outputs ``O``, and the cross entropy
    ``L_S`` of an auxiliary linear classifier. The score of the set taken after ``p`` of ``K`` others is ``1 - p/K``.
    docs/criteria.md has the details, and where this differs from the paper.

    Args:
        discrimination (float): Weight of the cross entropy, ``lambda`` in the paper; 0 leaves the classes out.
        samples (int): Images that are looked at: the first of the batches.
        group (int, optional): Sets added in each round; by default a 16th of them. The paper takes 1.
        steps (int): Training steps in each round.
        lr (float): Learning rate of Adam, in root mean squares of the layer's weights.
        combine, normalize (str): See :class:`Criterion`; over the layers that read a unit.

    Raises:
        UserError: An option is out of its range.
    """

    needs_data = True
    lacking = ('no conv or linear layer reads it once for each labelled image; leave the unit out (exclude) or take '
               'another criterion')

    def __init__(self, discrimination: float = 1.0, samples: int = 64, group: Optional[int] = None, steps: int = 5,
                 lr: float = 0.01, combine: str = 'mean', normalize: str = 'none') -> None:
        super().__init__(combine, normalize)
        for option, value, least in (('samples', samples, 2), ('group', 1 if group is None else group, 1)):
            whole_number(option, value, least)
        whole_number('steps', steps, 0, most=10_000)
        number('discrimination', discrimination, 0, 1e6)
        number('lr', lr, 0, 100)
        self.discrimination, self.samples, self.group = discrimination, samples, group
        self.steps, self.lr = steps, lr

    def observe(self, calibration: Calibration) -> None:
        """Select the channels of each layer in turn; each layer iterates over the data once, as far as needed.

        Raises:
            CriterionError: The calibration has no labels.
        """
        if calibration.labels is None:
            raise CriterionError('DCP keeps the channels that tell classes apart, and the calibration data has no '
                                 'labels: give Calibration(labels=...), or take another criterion')
        self.scores: Dict[str, List[Tensor]] = {unit.name: [] for unit in self.mutator.units}
        weights = dict.fromkeys(member.axis.tensor for unit in self.mutator.units for member in reading(unit))
        for weight in weights:
            layer = weight.rpartition('.')[0]
            module = self.mutator.model.get_submodule(layer)
            if isinstance(module, CONV_OR_LINEAR) and (pieces := self._pieces(layer, module, calibration)):
                self._score_layer(weight, module, pieces)

    def _pieces(self, layer: str, module: nn.Module, calibration: Calibration) -> List[Tuple[Tensor, Tensor]]:
        """Return the inputs ``Tensor[N, *]`` of each call of a layer with their labels ``LongTensor[N]``."""
        assert calibration.labels is not None
        pieces: List[Tuple[Tensor, Tensor]] = []
        seen: List[Tuple[int, Tensor]] = []
        images = 0
        dtype = torch.float64 if next(module.parameters()).dtype == torch.float64 else torch.float32

        def see(name: str, x: Tensor) -> None:
            seen.append((len(x), x[:self.samples].to(dtype, copy=True)))

        with inputs_seen({layer: module}, see):
            for batch in calibration.batches:
                seen.clear()
                calibration.loss(batch)
                labels = set_numbers(calibration.labels(batch))
                room = self.samples - images
                for rows, x in seen:
                    if rows != len(labels):
                        return []
                    x = x[:room].movedim(1, -1) if isinstance(module, nn.Linear) else x[:room]
                    pieces.append((x, labels[:room].to(x.device)))
                images += len(labels)
                if images >= self.samples:
                    break
        return pieces

    def _score_layer(self, weight: str, module: nn.Module, pieces: List[Tuple[Tensor, Tensor]]) -> None:
        """Append a layer's scores to those of each unit that it reads."""
        members = [(unit, member) for unit, member in self.mutator.surgery.members[weight]
                   if member.axis.role == 'in' and unit.channels.part not in DIMENSIONS]
        dim = members[0][1].axis.dim
        task = LayerTask(module, dim, pieces, self.discrimination)
        owner = torch.full((task.weight.size(dim),), -1, device=task.weight.device)
        rows, count = {}, 0
        for unit, member in members:
            columns = self.mutator.positions(unit, member).to(owner.device)
            rows[unit.name] = slice(count, count + len(columns))
            owner[columns] = torch.arange(count, count + len(columns), device=owner.device)[:, None]
            count += len(columns)
        with torch.enable_grad():
            order = select(task, owner, count, self.group or -(-count // 16), self.steps, self.lr)
        score = torch.empty(count, dtype=task.weight.dtype, device=owner.device)
        score[order] = 1 - torch.arange(count, dtype=score.dtype, device=owner.device) / count
        for name, part in rows.items():
            self.scores[name].append(score[part])

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the scores of each layer that reads the unit."""
        return self.scores[unit.name]


def set_numbers(labels: Any) -> Tensor:
    """Return labels unchanged.

    Raises:
        CriterionError: They are not a ``LongTensor[N]``, a whole number for each image.
    """
    if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point():
        what = f'{labels.dtype} of shape {tuple(labels.shape)}' if isinstance(labels, Tensor) else type(labels).__name__
        raise CriterionError(f'DCP keeps the channels that tell classes apart: it needs labels of whole numbers, '
                             f'LongTensor[N], and got {what}; take another criterion')
    return labels


class LayerTask:
    """The joint loss ``L_M + discrimination * L_S`` of a layer as a function of its weight.

    Args:
        module (nn.Module): A conv or linear layer; it is not changed.
        dim (int): The axis of its weight that its inputs lie on.
        pieces (list[tuple[Tensor[N, *], LongTensor[N]]]): Inputs with labels.
        discrimination (float): See :class:`DCP`.

    Attributes:
        weight (Tensor): A copy of the layer's weight, in the dtype of the inputs.
        targets (list[Tensor[N, C, *]]): The layer's outputs for each of the inputs, without the bias.
    """

    def __init__(self, module: nn.Module, dim: int, pieces: List[Tuple[Tensor, Tensor]], discrimination: float) -> None:
        self.module, self.dim, self.pieces, self.discrimination = module, dim, pieces, discrimination
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.weight = weight.detach().to(pieces[0][0].dtype, copy=True)
        with torch.no_grad():
            self.targets = [self._forward(x, self.weight) for x, _ in pieces]
        outputs = torch.cat([target.transpose(0, 1).flatten(1) for target in self.targets], 1)
        self.mean, self.deviation = outputs.mean(1), (outputs.var(1, unbiased=False) + EPSILON).sqrt()
        self.elements = outputs.numel()
        self.labels = torch.cat([labels for _, labels in pieces])
        self.classifier = self._train_classifier() if discrimination else None

    def _forward(self, x: Tensor, weight: Tensor) -> Tensor:
        bias: Optional[Tensor] = getattr(self.module, 'bias', None)
        zeros = {} if bias is None else {'bias': bias.new_zeros(bias.shape, dtype=x.dtype)}
        return channels_first(self.module, functional_call(self.module, {'weight': weight, **zeros}, x))

    def _pooled(self, out: Tensor) -> Tensor:
        """Return ``Tensor[N, C]``, the features of the auxiliary classifier."""
        shape = (-1, *[1] * (out.dim() - 2))
        normal = F.relu((out - self.mean.view(shape)) / self.deviation.view(shape))
        return normal.flatten(2).mean(2) if out.dim() > 2 else normal

    def _train_classifier(self) -> Tuple[Tensor, Tensor]:
        """Return the weight ``Tensor[classes, C]`` and bias of the best linear classifier of the layer's outputs."""
        features = torch.cat([self._pooled(target) for target in self.targets])
        classes = int(self.labels.max()) + 1
        weight = features.new_zeros(classes, features.size(1), requires_grad=True)
        bias = features.new_zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=50, line_search_fn='strong_wolfe')

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(F.linear(features, weight, bias), self.labels)
            value = value + RIDGE / 2 * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[arg-type]
        return weight.detach(), bias.detach()

    def loss(self, weight: Tensor) -> Tensor:
        """Return the joint loss ``Tensor[]`` of a weight."""
        value = weight.new_zeros(())
        for (x, labels), target in zip(self.pieces, self.targets):
            out = self._forward(x, weight)
            value = value + (out - target).square().sum() / (2 * self.elements)
            if self.classifier is not None:
                entropy = F.cross_entropy(F.linear(self._pooled(out), *self.classifier), labels, reduction='sum')
                value = value + self.discrimination * entropy / len(self.labels)
        return value


def select(task: LayerTask, owner: Tensor, count: int, group: int, steps: int, lr: float) -> Tensor:
    """Return ``LongTensor[count]``, the sets in the order in which algorithm 2 selects them by the loss's gradient.

    Args:
        task (LayerTask): The loss of a layer.
        owner (LongTensor[columns]): The set of each index on the input axis of the weight; -1 is always selected.
        count (int): How many sets.
        group (int): Sets added in each round.
        steps (int): Training steps in each round.
        lr (float): Learning rate, in root mean squares of the weight.
    """
    weight = task.weight.clone().requires_grad_()
    lr = lr * float(task.weight.square().mean().sqrt())
    shape = [1] * weight.dim()
    shape[task.dim] = -1
    order: List[int] = []
    selected = owner < 0
    while len(order) < count:
        mask = selected.to(weight.dtype).view(shape)
        restricted = (weight.detach() * mask).requires_grad_()
        gradient, = torch.autograd.grad(task.loss(restricted), restricted)
        squares = gradient.square().movedim(task.dim, 0).flatten(1).sum(1)
        norm = squares.new_zeros(count).index_add_(0, owner[owner >= 0], squares[owner >= 0])
        norm[order] = -1.0
        order += norm.sort(descending=True, stable=True).indices[:min(group, count - len(order))].tolist()
        selected = selected | torch.isin(owner, torch.tensor(order, device=owner.device))
        if len(order) < count:
            _train(task, weight, selected.to(weight.dtype).view(shape), steps, lr)
    return torch.tensor(order, device=owner.device)


def _train(task: LayerTask, weight: Tensor, mask: Tensor, steps: int, lr: float) -> None:
    """Train the selected part of a weight, in place."""
    optimizer = torch.optim.Adam([weight], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(weight * mask).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
