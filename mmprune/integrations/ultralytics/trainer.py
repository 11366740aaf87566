"""Ultralytics' own trainers, which build the network of the yaml, made to train the one that they are given."""
import copy
from typing import Any, Dict, Optional, Type

from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer

from ...arguments import UserError


class KeepsWidths:
    """Mixin for a trainer of ultralytics: the network it trains is a copy of the one it starts from or resumes."""

    data: Dict[str, Any]

    def get_model(self, cfg: Any = None, weights: Optional[nn.Module] = None, verbose: bool = True) -> nn.Module:
        """Return a copy of a network that can be trained.

        Args:
            cfg (dict or str, optional): Of the dense network; not looked at.
            weights (nn.Module): The pruned network.
            verbose (bool): Print its layers.

        Raises:
            UserError: There is none, or it is one for other classes or keypoints than the data has.
        """
        if not isinstance(weights, nn.Module):
            raise UserError(f'{type(self).__name__} trains the network that it starts from, and has none: start from a '
                            "pruned YOLO, or its file, YOLO('pruned.pt'), and leave pretrained as it is")
        self._check_fits(weights)
        network = copy.deepcopy(weights).float()
        network.criterion = None  # type: ignore[assignment]
        for name, parameter in network.named_parameters():
            parameter.requires_grad_('.dfl' not in name)
        if verbose:
            network.info(verbose=False)  # type: ignore[operator]
        return network

    def _check_fits(self, network: nn.Module) -> None:
        head = network.model[-1]  # type: ignore[index, union-attr]
        of_data = {'nc': self.data['nc'], 'kpt_shape': self.data.get('kpt_shape')}
        for name, what in (('nc', 'classes'), ('kpt_shape', 'keypoints')):
            own = getattr(head, name, None)
            if own is not None and of_data[name] is not None and _plain(own) != _plain(of_data[name]):
                raise UserError(f'the pruned network predicts {_plain(own)} {what}, and the data has '
                                f'{_plain(of_data[name])}: train the dense network on this data first, then prune it')


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


class PrunedDetectionTrainer(KeepsWidths, DetectionTrainer):
    """Trains a pruned detector."""


class PrunedSegmentationTrainer(KeepsWidths, SegmentationTrainer):
    """Trains a pruned model that segments instances."""


class PrunedPoseTrainer(KeepsWidths, PoseTrainer):
    """Trains a pruned model that estimates poses."""


#: Task -> the trainer of its pruned networks.
TRAINERS: Dict[str, Type[KeepsWidths]] = {
    'detect': PrunedDetectionTrainer, 'segment': PrunedSegmentationTrainer, 'pose': PrunedPoseTrainer}


def trainer_for(yolo: Any) -> Type[KeepsWidths]:
    """Return the class of trainers for a pruned YOLO: ``yolo.train(trainer=trainer_for(yolo), data=..., epochs=30)``.

    Raises:
        UserError: Its task is another one.
    """
    task = getattr(yolo, 'task', None)
    if task not in TRAINERS:
        raise UserError(f'the task of this YOLO is {task!r}; pruned networks are trained for {", ".join(TRAINERS)}')
    return TRAINERS[task]
