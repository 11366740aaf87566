"""Compare a segmentor's file with PyTorch: the scores of all classes at every pixel, and the classes that follow."""
import math
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Tuple, Union

import torch
from torch import Tensor, nn

from .comparison import check_file, latency_of_both
from .onnx_runtime import TOLERANCE, OnnxError, OnnxModel, ParityError, check_parity
from .timing import Timing

#: Operators by which mmdeploy's files turn the scores of a pixel into its class.
DECISION = ('Cast', 'ArgMax', 'Greater', 'Sigmoid')
#: Pixels that are added to the sides of an image, to see whether a file takes any size.
LARGER = 32


class Segmented(NamedTuple):
    """How far a file agrees with PyTorch."""

    difference: float  # largest relative difference of the scores
    matched: int  # pixels of the same class
    total: int  # all pixels


class Scores(nn.Module):
    """A segmentor of mmseg, from an image to the scores of its classes in the image's own size."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return ``Tensor[N, classes, H, W]`` for ``Tensor[N, 3, H, W]``, the image seen as a whole."""
        scores: Tensor = self.model.encode_decode(x, [dict(img_shape=x.shape[2:])] * len(x))  # type: ignore[operator]
        return scores


def compare_segmentor(path: Union[str, 'os.PathLike[str]'], model: nn.Module, x: Tensor, threads: int = 1,
                      rounds: int = 30) -> Tuple[Segmented, Timing]:
    """Check a file that mmdeploy wrote against PyTorch and time both.

    The scores are compared also where the file returns classes, which would hide a wrong network: they are read where
    its graph decides. A file that takes any number of images is checked on two, too; one that takes any size, on a
    larger image.

    Args:
        path (str): The file; it returns classes ``[N, 1, H, W]`` or, exported without argmax, scores.
        model (nn.Module): The segmentor, in eval mode.
        x (Tensor[N, 3, H, W]): A real input.
        threads (int): Threads of PyTorch and onnxruntime.
        rounds (int): Timed runs of each.

    Raises:
        ParityError: Scores differ, or a class does where the scores leave no doubt.
    """
    scores = Scores(model).eval()
    with tempfile.TemporaryDirectory() as folder:
        undecided = write_undecided(path, Path(folder) / 'scores.onnx')
        difference = check_file(undecided, scores, x, threads)
        difference = max(difference, _check_larger(OnnxModel(undecided, threads), scores, x))
    with torch.no_grad():
        wanted = scores(x)
    found = OnnxModel(path, threads)(x)[0]
    doubt, threshold = max(TOLERANCE, 2 * difference), getattr(model.decode_head, 'threshold', None)
    matched = count_matches(wanted, found, doubt, threshold)
    return (Segmented(difference, matched, wanted[:, 0].numel()),
            latency_of_both(scores, path, x, threads, rounds))


def _check_larger(onnx_model: OnnxModel, scores: nn.Module, x: Tensor) -> float:
    """Return the difference on a larger image where a file takes any size; raise ParityError if it is wrong there."""
    height, width = onnx_model.session.get_inputs()[0].shape[2:]
    size = [side + LARGER * (not isinstance(free, int)) for side, free in zip(x.shape[2:], (height, width))]
    if size == list(x.shape[2:]):
        return 0.0
    larger = nn.functional.interpolate(x, size, mode='bilinear')
    with torch.no_grad():
        scores(larger)  # a model that cannot take it says so itself
    try:
        return check_parity(onnx_model, scores, larger)
    except (ParityError, OnnxError) as error:
        raise ParityError(f'the file takes any image size, but is wrong for {size[1]} x {size[0]} where its example '
                          f'was {x.size(3)} x {x.size(2)}: export it with a fixed one. {error}') from error


def write_undecided(path: Union[str, 'os.PathLike[str]'], target: Path) -> Path:
    """Write a file's network with its scores as the output, instead of the classes; return the target."""
    import onnx  # an optional dependency
    network = onnx.load(str(path))
    makers = {name: node for node in network.graph.node for name in node.output}
    scores = network.graph.output[0].name
    while scores in makers and makers[scores].op_type in DECISION:
        scores = makers[scores].input[0]
    del network.graph.output[:]
    network.graph.output.append(onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, None))
    onnx.save(network, str(target))
    return target


def count_matches(scores: Tensor, found: Tensor, doubt: float, threshold: Any = None) -> int:
    """Count the pixels that a file gives the class of the highest score.

    Args:
        scores (Tensor[N, classes, H, W]): Of PyTorch; a single class is present where its sigmoid is above
            ``threshold``.
        found (Tensor[N, 1 or classes, H, W]): Classes, or scores, of the file.
        doubt (float): Scores that differ by less, relative to the largest, may change places.
        threshold (float, optional): Of a single class.

    Raises:
        ParityError: A pixel has a class whose score is clearly lower.
    """
    if found.is_floating_point():
        found = found.argmax(dim=1, keepdim=True)
    if scores.size(1) == 1:
        border = math.log(threshold / (1 - threshold))
        scores = torch.cat([torch.full_like(scores, border), scores], dim=1)
    behind = (scores.amax(dim=1, keepdim=True) - scores.gather(1, found)) / scores.abs().max()
    wrong = int((behind > doubt).sum())
    if wrong:
        raise ParityError(f'{wrong} of {found.numel()} pixels get another class in onnxruntime than in PyTorch. '
                          'The file must not be deployed')
    return int((behind == 0).sum())
