"""Prune a YOLO in place, or cut a fresh one to a structure: the network that ultralytics trains, tests and exports."""
import os
from typing import Any, List, Mapping, NamedTuple, Optional, Union

import torch
from torch import Tensor, nn

from ...arguments import UserError, typed, whole_number
from ...criteria.criterion import Criterion
from ...criteria.output_loss import OUTPUTS
from ...pruning.pruner import Pruner
from ...pruning.structure_file import apply_structure
from ...pruning.target import PruningTarget
from ...repair.result import Repair
from ...units.structure import Structure
from .head import raw_predictions
from .images import images_of

#: Images of a batch in which channels are scored and layers are repaired.
BATCH = 8
#: Height and width of the largest images.
LARGEST = 8192
#: Takes the place of the layers in the yaml of a pruned network, where it is met by what would build a dense one.
NOTE = 'pruned by mmprune: train it with trainer=trainer_for(yolo) of mmprune.integrations.ultralytics'
#: Where the layers of the dense network stay.
DENSE = 'dense_backbone'


class Pruned(NamedTuple):
    """What was done to a YOLO.

    Attributes:
        pruner (Pruner): With ``report()``, ``explain()`` and the units; what ``mmprune.save_structure`` takes.
        repairs (list[Repair]): One for each round.
    """

    pruner: Pruner
    repairs: List[Repair]


@typed
def prune(yolo: Any, target: Union[Mapping[str, Any], PruningTarget],
          criterion: Union[str, Mapping[str, Any], Criterion] = 'GroupFisher', images: Any = None,
          rounds: Union[int, str] = 'auto', choice: Optional[Mapping[str, Any]] = None,
          runtime: Optional[Mapping[str, Any]] = None, imgsz: Optional[int] = None,
          most_images: int = 128) -> Pruned:
    """Prune the network of a YOLO in place, and repair it after each round.

    Args:
        yolo (YOLO): Of ultralytics, for detection, segmentation or poses; trained.
        target (dict or PruningTarget): See :class:`~mmprune.pruning.pruner.Pruner`; multiply-adds are those of one
            image of ``imgsz``.
        criterion (str, dict or Criterion): See there. One that needs a loss scores by what raw predictions lose, see
            :class:`~mmprune.criteria.output_loss.OutputLoss`.
        images (Tensor[N, 3, H, W], path or iterable, optional): To score and repair by, without labels; see
            :func:`~mmprune.integrations.ultralytics.images.images_of`. Without them a criterion of weights alone can
            score, and nothing is repaired.
        rounds (int or str): Rounds of cutting and repairing; ``auto`` chooses, 0 cuts once and repairs nothing.
        choice (dict, optional): Units that may be pruned: ``dict(exclude='model.0')``.
        runtime (dict, optional): Where a target in time is measured: ``dict(type='OnnxRuntime', threads=1)``.
        imgsz (int, optional): Height and width; by default those that it was trained with, else 640.
        most_images (int): How many images are used.

    Raises:
        UserError: An argument is wrong; the message says which.
    """
    whole_number('most_images', most_images, 2)
    if rounds != 'auto':
        whole_number('rounds', rounds, 0, must="it must be 'auto' or a whole number of 0 or more")
    with raw_predictions(yolo) as network:
        size = size_of(network, imgsz)
        pictures = None if images is None else images_of(images, size, most_images)
        _make_trainable(network)
        pruner = Pruner(network, example(network, size), criterion, target=target, choice=choice, runtime=runtime)
        _check_has_images(pruner, pictures)
        batches = [] if pictures is None else list(pictures.split(BATCH))
        if batches and pruner.criterion.needs_data:
            pruner.calibrate(batches, OUTPUTS if pruner.criterion.needs_loss else None)
        repairs: List[Repair] = []
        if batches and rounds != 0:
            repairs = pruner.cut_in_rounds(batches, rounds)
        else:
            pruner.cut()
    _settle(yolo, network)
    return Pruned(pruner, repairs)


@typed
def cut_to(yolo: Any, structure: Union[str, 'os.PathLike[str]', Structure], imgsz: Optional[int] = None) -> nn.Module:
    """Cut the network of a fresh YOLO to a structure, ready to load the pruned weights, and return it.

    Args:
        yolo (YOLO): Of the yaml and the classes of the one that was pruned: ``YOLO('yolo11n.yaml')``.
        structure (dict or str): What ``mmprune.save_structure(pruned.pruner, path)`` wrote.
        imgsz (int, optional): As for :func:`prune`.

    Raises:
        StructureError: The structure cannot be read, or is one of another network.
    """
    with raw_predictions(yolo) as network:
        _make_trainable(network)
        apply_structure(network, example(network, size_of(network, imgsz)), structure)
    _settle(yolo, network)
    return network


def example(network: nn.Module, size: int) -> Tensor:
    """Return ``Tensor[1, C, size, size]`` of random values from 0 to 1, by which a network is traced."""
    channels = int(getattr(network, 'yaml', {}).get('channels', 3))
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def size_of(network: nn.Module, imgsz: Optional[int]) -> int:
    """Return the height and width of images: the given ones, those of the training, or 640.

    Raises:
        UserError: The size is no number, or no multiple of the largest stride.
    """
    args = getattr(network, 'args', {})
    known = args.get('imgsz') if isinstance(args, Mapping) else getattr(args, 'imgsz', None)
    size = imgsz if imgsz is not None else known if isinstance(known, int) else 640
    whole_number('imgsz', size, most=LARGEST)
    stride = int(getattr(network, 'stride', torch.tensor([32])).max())
    if size % stride:
        raise UserError(f'imgsz is {size}; it must be a multiple of {stride}, the stride of the network')
    return size


def _check_has_images(pruner: Pruner, images: Optional[Tensor]) -> None:
    if pruner.criterion.needs_data and images is None:
        raise UserError(f"{type(pruner.criterion).__name__} scores channels by images: give images='data.yaml', a "
                        "folder or a tensor, or take a criterion of weights alone, such as criterion='L1'")


def _make_trainable(network: nn.Module) -> None:
    """Let the parameters of a loaded file have gradients again, but for those that ultralytics never trains."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_('.dfl' not in name and parameter.is_floating_point())


def _settle(yolo: Any, network: nn.Module) -> None:
    """Make a YOLO hold on to its pruned network: what has seen the dense one goes, what would build one fails."""
    layers = network.yaml  # type: ignore[union-attr]
    if DENSE not in layers:
        network.yaml = {**layers, DENSE: layers['backbone'], 'backbone': [[-1, 1, NOTE, []]]}  # type: ignore
    for module in network.modules():  # what its exporter runs in place of forward splits by an attribute
        if hasattr(module, 'forward_split'):
            module.c = module.cv1.conv.out_channels // 2  # type: ignore[union-attr]
    network.criterion = None  # type: ignore[assignment]
    yolo.predictor = None
    # without a checkpoint its train() hands no weights to the trainer
    yolo.ckpt = {**(yolo.ckpt or {}), 'model': network, 'ema': None, 'optimizer': None, 'epoch': -1}
