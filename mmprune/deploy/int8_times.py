"""What pruning and INT8 give together: the networks of two files, in float and in INT8, timed in turns."""
from pathlib import Path
from typing import Dict, Mapping, NamedTuple, Sequence

from torch import Tensor

from .beside_dense import BUDGET
from .quantization import FORMATS, PathLike, Quantizer
from .runtimes.runtime import Runtime
from .timing import Candidate, Timing, measure

#: Images from which the ranges of a network come that is only timed.
IMAGES = 8


class Int8Times(NamedTuple):
    """The times of each network in float and in both formats."""

    timing: Timing  # of ``pruned``, ``pruned QDQ``, ``pruned QOperator``, and so on
    names: Sequence[str]  # of the networks

    def fastest(self) -> str:
        """Return the faster format for the last network."""
        return min(FORMATS, key=lambda form: self.timing[f'{self.names[-1]} {form}'].median)

    def as_json(self, form: str) -> Dict[str, Dict[str, float]]:
        """Return the times of each network, and of each in a format under its name with ``_int8``."""
        found = self.timing.as_json()
        chosen = {**{name: name for name in self.names}, **{f'{name}_int8': f'{name} {form}' for name in self.names}}
        return {name: found[key] for name, key in chosen.items()}

    def table(self, form: str) -> str:
        """Return a line for each network: milliseconds in float and in INT8, and what both give over the first."""
        first = self.timing[self.names[0]]
        lines = [f'  {"":<8}{"float":>12}{"INT8":>12}{"INT8 is":>12}{"over " + self.names[0] + " float":>20}']
        for name in self.names:
            one, other = self.timing[name], self.timing[f'{name} {form}']
            lines.append(f'  {name:<8}{one.median:>9.2f} ms{other.median:>9.2f} ms{other.speedup_over(one):>9.2f} x '
                         f'{other.speedup_over(first):>18.2f} x')
        if other.speedup_over(one) <= 1:
            lines.append(f'INT8 is not faster than float here: {other.speedup_over(one):.2f} times as fast')
        return '\n'.join([*lines, *self.timing.warning_lines()])


def int8_files(files: Mapping[str, PathLike], images: Sequence[Tensor], places: Sequence[int],
               folder: Path) -> Dict[str, Path]:
    """Write the networks of files up to their heads, in float and in both formats of INT8.

    Args:
        files (dict[str, str]): Name -> file in float32.
        images (list[Tensor]): Batches ``Tensor[N, C, H, W]`` for the ranges.
        places (list[int]): Of the layers that stay in float, in the order of all layers.
        folder (Path): Where they go.

    Returns:
        dict[str, Path]: ``NAME``, ``NAME QDQ`` and ``NAME QOperator`` of each.
    """
    found: Dict[str, Path] = {}
    for name, path in files.items():
        quantizer = Quantizer(path, images)
        found[name] = quantizer.write_float(folder / f'{name}.onnx')
        left = [quantizer.network.layers[place] for place in places if place < len(quantizer.network.layers)]
        for form in FORMATS:
            found[f'{name} {form}'] = quantizer.write_network(folder / f'{name}_{form}.onnx', left, form=form)
    return found


def int8_times(files: Mapping[str, PathLike], x: Tensor, runtime: Runtime, rounds: int = 30,
               seconds: float = BUDGET) -> Int8Times:
    """Time networks in float and in both formats of INT8, in turns.

    Args:
        files (dict[str, str]): What :func:`int8_files` returned; the network that counts comes last.
        x (Tensor[N, C, H, W]): The input.
        runtime (Runtime): Runs them.
        rounds (int): Timed runs of each.
        seconds (float): Time budget.
    """
    candidates = {name: Candidate(runtime, path) for name, path in files.items()}
    return Int8Times(measure(candidates, x, rounds, seconds), [name for name in files if ' ' not in name])
