"""Neuron importance score propagation: Yu et al., NISP, CVPR 2018; its feature ranking: Roffo et al., ICCV 2015."""
from typing import Dict, List, Sequence

import torch
from torch import Tensor

from ..arguments import one_of
from ..group_fisher.taps import is_run_by_its_module
from ..registry import CRITERIA
from ..units.equivalence import Deterministic, double_copy
from ..units.unit import ChannelUnit
from .calibration import Calibration
from .criterion import Criterion, CriterionError
from .inputs import inputs_seen
from .score_flow import NoGraphError, Read, ScoreFlow


@CRITERIA.register_module()
class NISP(Criterion):
    """``s_k = |W_{k+1}|^T s_{k+1}``: what the final responses owe to a channel, layer by layer from the end.

    The final responses are the inputs of the last conv and linear layers before the outputs. Their scores are those of
    :func:`inf_fs` over the calibration data; they then go backwards through the network, neuron by neuron, and the
    score of a channel is that of all its positions (and of all calls of its layer):

    * conv and linear layers send ``|W|^T s``, norms ``|gamma| / sigma * s`` (with the running variance, where it is
      used), activations ``s`` (they are Lipschitz with constant 1);
    * a residual add gives ``s`` to both branches, and so does a product of two branches, such as a gate; a product with
      a parameter sends its absolute value times ``s``;
    * poolings, concats and everything else send what their derivative does, which for a pooling keeps the total.

    A layer's score is that of its own outputs, before the norm that follows. Where a function has no rule above, what
    arrives at the next layer counts by its absolute value. Scores go through a copy of the model in float64 on the CPU.

    Args:
        final (str): Scores of the final responses: ``inf_fs``, or ``ones``, for which no batch is looked at.
        alpha (float): Weight, from 0 to 1, of the spread of a response against its independence in :func:`inf_fs`.
        samples (int): Samples that :func:`inf_fs` ranks at most, evenly from all that were seen; each position of a
            feature map is a sample.
        combine (str): See :class:`Criterion`; here of the layers that produce a unit.
        normalize (str): See :class:`Criterion`.

    Raises:
        ValueError: An option is out of its range.
    """

    needs_data = True

    def __init__(self, final: str = 'inf_fs', alpha: float = 0.5, samples: int = 1000, combine: str = 'mean',
                 normalize: str = 'none') -> None:
        super().__init__(combine, normalize)
        self.final = one_of('final', final, ('inf_fs', 'ones'))
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha is {alpha}; it must lie between 0 and 1')
        if samples < 2:
            raise ValueError(f'samples is {samples}; it must be 2 or more')
        self.alpha, self.samples = alpha, samples

    def observe(self, calibration: Calibration) -> None:
        """Rank the final responses on all batches, and propagate their scores through a run on the demo input.

        Raises:
            CriterionError: No layer reads what another one produces, the last ones see no data or cannot be seen, or a
                part of the model runs without a graph.
        """
        model = double_copy(self.mutator.model).requires_grad_(False)  # sums of absolute values outgrow float32
        flow = ScoreFlow(model)
        try:
            with torch.enable_grad(), Deterministic(), flow:
                self.mutator.demo_input(model)
        except NoGraphError as error:
            raise CriterionError(f'NISP lets scores flow backwards through the whole model, and {error}; take another '
                                 'criterion') from error
        last = flow.last_reads()
        if not last:
            raise CriterionError(f'NISP found no layer of {type(model).__name__} that reads what another one produces:'
                                 ' there is nothing to propagate')
        if self.final == 'ones':
            importance = [torch.ones(read.x.size(read.axis)) for read in last]
        else:
            ranked = self._rank(last, calibration)
            importance = [ranked[read.layer] for read in last]
        self.scores = flow.propagate(last, importance)

    def _rank(self, reads: Sequence[Read], calibration: Calibration) -> Dict[str, Tensor]:
        """Return the scores ``Tensor[F]`` of the inputs of layers."""
        layers = {read.layer for read in reads}
        seen: Dict[str, List[Tensor]] = {layer: [] for layer in layers}
        modules = {layer: self.mutator.model.get_submodule(layer) for layer in sorted(layers)}
        calls = self.mutator.complexity.graph.calls
        hidden = [read.layer for read in reads
                  if not is_run_by_its_module(self.mutator.model, read.weight, calls)]
        if hidden:
            raise CriterionError(f'NISP ranks the inputs of the last layers, and the weights of {hidden[0]!r} are used '
                                 "outside the conv or linear module that owns them, unseen; take final='ones'")

        def see(layer: str, x: Tensor) -> None:
            seen[layer].append(_evenly(x.movedim(1, -1).flatten(0, -2), self.samples).clone())

        with inputs_seen(modules, see):
            for batch in calibration.batches:
                calibration.loss(batch)
        unseen = sorted(layer for layer in layers if sum(map(len, seen[layer])) < 2)
        if unseen:
            raise CriterionError(f'NISP ranks the inputs of the last layers, and {unseen[0]!r} saw fewer than 2 samples'
                                 " in the calibration data; give it more, or take final='ones'")
        return {layer: inf_fs(_evenly(torch.cat(parts), self.samples), self.alpha) for layer, parts in seen.items()}

    def member_scores(self, unit: ChannelUnit) -> List[Tensor]:
        """Return the scores of each layer that produces the unit."""
        scores = []
        for member in unit.channels.producers:
            if member.axis.tensor in self.scores:
                score = self.scores[member.axis.tensor]
                size = self.tensor(member).size(member.axis.dim)
                if member.axis.role == 'depthwise':  # a transposed one has one row for all outputs of a channel
                    score = score.reshape(size, -1).sum(1)
                else:  # a transposed one has one column for all groups
                    score = score.reshape(-1, size).sum(0)
                scores.append(score[self.mutator.positions(unit, member).to(score.device)].sum(1))
        return scores

    def missing(self, unit: ChannelUnit) -> str:
        """Say that nothing arrives at the unit."""
        return 'nothing that the last layers read depends on it; leave the unit out (exclude)'


def inf_fs(features: Tensor, alpha: float = 0.5) -> Tensor:
    """Rank features by the energy of all paths through them: Inf-FS, Roffo et al., ICCV 2015.

    ``A_ij = alpha * max(std_i, std_j) + (1 - alpha) * (1 - |spearman_ij|)``, ``S = (I - r A)^-1 - I`` with ``r = 0.9 /
    spectral radius of A``; the score of a feature is the sum of its row. A feature that is always the same adds nothing
    to others and counts as correlated with all of them. It takes time in ``F^3``.

    Args:
        features (Tensor[T, F]): Samples.
        alpha (float): From 0 to 1.

    Returns:
        Tensor[F]: In float64.
    """
    x = features.double()
    deviation = x.std(0)
    columns = x.t().contiguous()
    ordered = columns.sort(1).values
    # the mean of the first and the last place of each value among the sorted ones: tied samples share a rank
    rank = (torch.searchsorted(ordered, columns) + torch.searchsorted(ordered, columns, right=True)).double()
    rank -= rank.mean(1, keepdim=True)
    length = rank.norm(dim=1)
    unit = rank / length.clamp_min(torch.finfo(rank.dtype).tiny)[:, None]
    correlation = (unit @ unit.t()).abs().clamp_max(1.0)
    constant = length == 0
    correlation[constant] = correlation[:, constant] = 1.0
    graph = alpha * torch.maximum(deviation[:, None], deviation) + (1 - alpha) * (1 - correlation)
    radius = torch.linalg.eigvalsh(graph).abs().max()
    if radius == 0:
        return torch.zeros_like(deviation)
    identity = torch.eye(len(graph), dtype=graph.dtype, device=graph.device)
    return torch.linalg.solve(identity - 0.9 / radius * graph, torch.ones_like(deviation)) - 1.0


def _evenly(rows: Tensor, count: int) -> Tensor:
    """Return at most so many rows, from the first to the last."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).long()]
