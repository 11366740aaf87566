"""Which layers stay in float: those whose quantisation the network's outputs suffer from most, no more than needed."""
import math
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

from torch import Tensor

from .quantization import PERCENTILES, Quantizer, run


class Sensitivity:
    """Compares networks in INT8 with the one in float32, by their outputs before they are decoded.

    Args:
        quantizer (Quantizer): Of the file.
        images (list[Tensor]): Batches ``Tensor[N, C, H, W]`` to compare on.
        threads (int): Of onnxruntime.
    """

    def __init__(self, quantizer: Quantizer, images: Sequence[Tensor], threads: int = 1) -> None:
        self.quantizer, self.images, self.threads = quantizer, images, threads
        with tempfile.TemporaryDirectory() as folder:
            self.wanted = self._compared(quantizer.write_float(Path(folder) / 'float.onnx'))

    def decibels(self, left_in_float: Sequence[str] = (), only: str = '') -> float:
        """Return the signal to noise ratio of the outputs, in decibels.

        Args:
            left_in_float (list[str]): Names of layers.
            only (str): The layer that alone is quantised; by default all are.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = self.quantizer.write_network(Path(folder) / 'network.onnx', left_in_float, only or None)
            return signal_to_noise(self.wanted, self._compared(path))

    def _compared(self, path: Path) -> List[List[Tensor]]:
        """Return the outputs of a network for each batch, those that can be compared."""
        places = self.quantizer.network.compared
        return [[outputs[place] for place in places] for outputs in run(path, self.images, self.threads)]

    def choose_percentile(self) -> Dict[float, float]:
        """Let the quantiser use the ranges that the outputs suffer from least; return percentile -> decibels."""
        found = {}
        for percentile in PERCENTILES:
            self.quantizer.percentile = percentile
            found[percentile] = self.decibels()
        self.quantizer.percentile = max(PERCENTILES, key=lambda one: found[one])
        return found

    def ranked(self) -> List[Tuple[str, float]]:
        """Return the layers with the decibels when each alone is quantised, the most sensitive first."""
        found = [(name, self.decibels(only=name)) for name in self.quantizer.network.layers]
        return sorted(found, key=lambda one: one[1])


def signal_to_noise(wanted: Sequence[Sequence[Tensor]], found: Sequence[Sequence[Tensor]]) -> float:
    """Return the signal to noise ratio in decibels; the noise of each output counts in its own unit.

    Args:
        wanted (list[list[Tensor]]): The outputs for each batch.
        found (list[list[Tensor]]): Those of another network.
    """
    signals, noises = ([0.0] * len(wanted[0]) for _ in range(2))
    for left, right in zip(wanted, found):
        for place, (one, other) in enumerate(zip(left, right)):
            signals[place] += float(one.double().square().sum())
            noises[place] += float((one.double() - other.double()).square().sum())
    share = sum(noise / signal for signal, noise in zip(signals, noises) if signal) / max(1, len(signals))
    return math.inf if share == 0 else -10 * math.log10(share)


class Search(NamedTuple):
    """What the search for layers that stay in float came to."""

    left_in_float: Tuple[str, ...]  # names, the most sensitive first
    drop: float  # what is lost with them in float
    tried: Dict[int, float]  # number of layers in float -> drop


def least_in_float(ranked: Callable[[], Sequence[str]], drop_of: Callable[[Sequence[str]], float],
                   allowed: float) -> Search:
    """Return the fewest of the most sensitive layers that must stay in float for the loss to be allowed.

    Their number is doubled until the loss is allowed, then halved down to the least: fewer layers in float are taken to
    lose more. Where all of them do not suffice either, all of them are returned.

    Args:
        ranked (Callable): Returns the layers, the most sensitive first; called only if some must stay.
        drop_of (Callable): Returns what is lost when some layers stay in float.
        allowed (float): Largest loss.
    """
    tried = {0: drop_of(())}
    if tried[0] <= allowed:
        return Search((), tried[0], tried)
    order = list(ranked())

    def drop(count: int) -> float:
        if count not in tried:
            tried[count] = drop_of(order[:count])
        return tried[count]

    high = 1
    while high < len(order) and drop(high) > allowed:
        high = min(2 * high, len(order))
    drop(high)
    low = max(count for count in tried if count < high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if drop(middle) <= allowed else (middle, high)
    return Search(tuple(order[:high]), tried[high], tried)
