"""What a repair has done, and what a user should know of it."""
import math
from typing import Dict, List, NamedTuple, Optional

#: A layer whose relative error is less has nothing to repair: sums of float32 tell no better.
NOTHING = 1e-6


class LayerRepair(NamedTuple):
    """What became of a layer."""

    before: float  #: squared error on held-back images over the outputs' variance
    after: float  #: the same with the solution
    applied: bool  #: whether the solution is in place; False where it is worse, or nothing was to be repaired
    ridge: Optional[float] = None  #: strength of the ridge
    added_bias: bool = False  #: the layer has got a bias, which it did not have
    samples: int = 0  #: images times sampled positions by which the ridge was chosen
    unknowns: int = 0  #: inputs of an output, each of which has a weight


class Repair(NamedTuple):
    """What a repair has done.

    Attributes:
        layers (dict[str, LayerRepair]): In the order of execution.
        left (dict[str, str]): Weight that reads channels that are gone -> why it was left as it is.
        norms (bool): Whether the norms' statistics were measured anew.
        before, after (float): Squared error of the model's outputs on held-back images over their variance; NaN without
            a dense twin.
        seconds (float): Time taken.
        images (int): How many there were, those that were held back included.
    """

    layers: Dict[str, LayerRepair]
    left: Dict[str, str]
    norms: bool
    before: float
    after: float
    seconds: float
    images: int = 0

    def notes(self) -> List[str]:
        """Return what a user should know, a line each."""
        worse = [name for name, layer in self.layers.items() if not layer.applied and layer.before > NOTHING]
        added = [name for name, layer in self.layers.items() if layer.added_bias]
        lines = [self._summary(len(worse))]
        lines += [f'{name}: left as it was, since its solution is worse on held-back images' for name in worse]
        lines += [f'{name}: has got a bias, a parameter that the architecture does not have' for name in added]
        lines += [f'{name}: left as it was; {reason}' for name, reason in self.left.items()]
        return lines + self.warnings()

    def _summary(self, worse: int) -> str:
        solved = sum(layer.applied for layer in self.layers.values())
        parts = [f'{solved} of {len(self.layers)} layers solved again'] if self.layers else []
        parts += [f'{count} {what}' for count, what in (
            (worse, 'dropped as worse'), (len(self.layers) - solved - worse, 'with nothing to repair'),
            (len(self.left), 'of other kinds left')) if count]
        parts += ['norms measured anew'] if self.norms else []
        error = '' if math.isnan(self.before) else (
            f'; error of the outputs on held-back images {self.before:.4g} before, {self.after:.4g} after')
        return f'{", ".join(parts) or "nothing to repair"}, in {self.seconds:.0f} s by {self.images} images{error}'

    def warnings(self) -> List[str]:
        """Return what speaks against the result, a line each: too few images, outputs that are further off."""
        lines = [] if self.too_few is None else [self.too_few]
        if self.after > self.before:
            lines.append(f'WARNING: the outputs on held-back images are further from the dense ones than before, '
                         f'{self.after:.4g} instead of {self.before:.4g}: keep the network as it was')
        return lines

    @property
    def too_few(self) -> Optional[str]:
        """A warning, if a layer that was solved has more inputs than samples."""
        lacking = {name: layer.unknowns / layer.samples for name, layer in self.layers.items()
                   if layer.applied and layer.samples < layer.unknowns and not math.isinf(layer.ridge or 0)}
        if not lacking:
            return None
        worst = max(lacking, key=lambda name: lacking[name])
        layer, others = self.layers[worst], len(lacking) - 1
        wanted = math.ceil(self.images * lacking[worst])
        more = f', and {others} more layers have too few' if others else ''
        return (f'WARNING: {worst} has {layer.unknowns} inputs and was solved by {layer.samples} samples, images times '
                f'sampled positions{more}: only the ridge holds it; give {wanted} images or more')
