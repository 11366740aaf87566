"""A channel unit scored by group Fisher information, by what one of its channels costs."""
from torch import Tensor

from ..arguments import one_of
from ..graph.channels import CoupledChannels
from ..registry import MODELS
from ..units.complexity import LATENCY, RUN_NORMALIZATIONS, Complexity, Widths
from ..units.unit import ChannelUnit


@MODELS.register_module()
class GroupFisherChannelUnit(ChannelUnit):
    """A channel unit scored by Fisher information.

    Liu et al., Group Fisher Pruning for Practical Network Compression, ICML 2021.

    A sample is a row of the batch that a layer reads: an image, or a region in the second stage of a detector. Layers
    that read the same batch are added before they are squared, those of different batches are squared apart
    (docs/how_it_works.md).

    Args:
        channels (CoupledChannels): The channels, over all tensors of the model.
        normalization_type (str): What a score is divided by: ``act`` (activations of one channel, in millions),
            ``flops`` (multiply-adds of one channel, in 1e9), ``latency`` (milliseconds of one channel of the block that
            would go next) or ``none``.
        mutate_linear (bool): Prune channels that a linear layer reads or produces.

    Attributes:
        fisher (Tensor[sets]): ``sum over iterations, batches, samples of (sum over layers, calls, positions of
            activation * gradient)^2``; a view of the mutator's one accumulator.
        milliseconds (float): What one set costs now, by the latency table; set before it is scored by that.
    """

    fisher: Tensor
    milliseconds: float

    def __init__(self, channels: CoupledChannels, normalization_type: str = 'act', mutate_linear: bool = False) -> None:
        super().__init__(channels, mutate_linear)
        self.normalization_type = one_of('normalization_type', normalization_type, RUN_NORMALIZATIONS)

    def channel_cost(self, complexity: Complexity, widths: Widths) -> float:
        """Return what one set costs at present, in the unit of the normalization type."""
        if self.normalization_type == LATENCY:
            return self.milliseconds
        return channel_cost(self.channels, self.normalization_type, complexity, widths)

    def score(self, complexity: Complexity, widths: Widths) -> Tensor:
        """Return the importance ``Tensor[sets]``: Fisher information by the cost of one set."""
        return self.fisher / self.channel_cost(complexity, widths)


def channel_cost(channels: CoupledChannels, normalization_type: str, complexity: Complexity, widths: Widths) -> float:
    """Return what one set costs at present, in the unit of the normalization type."""
    if normalization_type == 'act':
        return complexity.channel_acts(channels) / 1e6
    if normalization_type == 'flops':
        return complexity.channel_macs(channels, widths) / 1e9
    return 1.0
