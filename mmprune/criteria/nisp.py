"""Neuron importance score propagation: Yu et al., NISP, CVPR 2018; its feature ranking: Roffo et al., ICCV 2015."""
from typing import Dict, List, Sequence

import torch
from torch import Tensor

from ..arguments import number, one_of, whole_number
from ..group_fisher.taps import is_run_by_its_module
from ..registry import CRITERIA
from ..units.copies import double_copy
from ..units.equivalence import Deterministic
from ..units.unit import ChannelUnit
from .calibration import Calibration
from .criterion import Criterion, CriterionError
from .inputs import inputs_seen
from .score_flow import NoGraphError, Read, ScoreFlow


@CRITERIA.register_module()
class NISP(Criterion):
    """``s_k = |W_{k+1}|^T s_{k+1}``: the contribution of a channel to the final responses, layer by layer from the end.

    The final responses are the inputs of the last conv and linear layers before the outputs; :func:`inf_fs` ranks them
    over the calibration data. Their scores flow backwards through the network, neuron by neuron, by the rules of
    :class:`~mmprune.criteria.score_flow.ScoreFlow`, through a copy of the model in float64 on the CPU. The score of a
    channel is the sum over its positions and the calls of its layer, before the norm that follows.

    Args:
        final (str): Scores of the final responses: ``inf_fs``, or ``ones``, for which no batch is looked at.
        alpha (float): Weight, from 0 to 1, of the spread of a response against its independence in :func:`inf_fs`.
        samples (int): Samples that :func:`inf_fs` ranks at most, evenly from all that were seen; each position of a
            feature map is a sample.
        combine, normalize (str): See :class:`Criterion`; over the layers that produce a unit.

    Raises:
        UserError: An option is out of its range.
    """

    needs_data = True
    lacking = 'nothing that the last layers read depends on it; leave the unit out (exclude)'

    def __init__(self, final: str = 'inf_fs', alpha: float = 0.5, samples: int = 1000, combine: str = 'mean',
                 normalize: str = 'none') -> None:
        super().__init__(combine, normalize)
        self.final = one_of('final', final, ('inf_fs', 'ones'))
        self.alpha, self.samples = number('alpha', alpha, 0, 1), whole_number('samples', samples, 2)

    def observe(self, calibration: Calibration) -> None:
        """Rank the final responses on all batches, and propagate their scores through a run on the demo input.

        Raises:
            CriterionError: No layer reads what another layer produces, the inputs of the last layers cannot be recorded
                or are fewer than 2 samples, or a part of the model runs without a graph.
        """
        model = double_copy(self.mutator.model).requires_grad_(False)  # sums of absolute values overflow float32
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
        model, calls = self.mutator.model, self.mutator.complexity.graph.calls
        modules = {layer: model.get_submodule(layer) for layer in sorted({read.layer for read in reads})}
        seen: Dict[str, List[Tensor]] = {layer: [] for layer in modules}
        hidden = [read.layer for read in reads if not is_run_by_its_module(model, read.weight, calls)]
        if hidden:
            raise CriterionError(f'NISP ranks the inputs of the last layers, and the weights of {hidden[0]!r} are used '
                                 "outside the conv or linear module that owns them, unseen; take final='ones'")

        def see(layer: str, x: Tensor) -> None:
            seen[layer].append(_evenly(x.movedim(1, -1).flatten(0, -2), self.samples).clone())

        with inputs_seen(modules, see):
            for batch in calibration.batches:
                calibration.loss(batch)
        unseen = [layer for layer in modules if sum(map(len, seen[layer])) < 2]
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
                # in a transposed conv several outputs share an index: neighbours if depthwise, else one of each group
                score = (score.reshape(size, -1).sum(1) if member.axis.role == 'depthwise' else
                         score.reshape(-1, size).sum(0))
                scores.append(score[self.mutator.positions(unit, member).to(score.device)].sum(1))
        return scores


def inf_fs(features: Tensor, alpha: float = 0.5) -> Tensor:
    """Return scores ``Tensor[F]`` of features, the energy of all paths through them: Inf-FS, Roffo et al., ICCV 2015.

    ``A_ij = alpha * max(std_i, std_j) + (1 - alpha) * (1 - |spearman_ij|)``, ``S = (I - r A)^-1 - I`` with ``r = 0.9 /
    spectral radius of A``; the score of a feature is the sum of its row of ``S``. A constant feature counts as
    correlated with all others. Computed in float64, in time ``F^3``.

    Args:
        features (Tensor[T, F]): Samples.
        alpha (float): From 0 to 1.
    """
    x = features.double()
    deviation = x.std(0)
    columns = x.t().contiguous()
    ordered = columns.sort(1).values
    # the mean of the first and the last place of each value after sorting: equal samples share a rank
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
    """Return at most ``count`` rows, evenly from the first to the last."""
    if len(rows) <= count:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, count, device=rows.device).long()]
