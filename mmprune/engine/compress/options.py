"""What a compression was asked for."""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence, Union

from ...arguments import UserError, nearest, number, share
from ...pruning.target import LATENCIES, PruningTarget
from ...units.complexity import COSTS

METHODS = ('one-shot', 'group-fisher')
#: What a target may be: a time, or costs.
TARGETS = (*LATENCIES, *COSTS)


@dataclass(frozen=True)
class CompressOptions:
    """What is done, and how.

    Args:
        config (str): Config of the dense model.
        checkpoint (str): Its checkpoint.
        folder (Path): Where everything goes.
        target (dict[str, float]): What is to be reached: ``latency`` (share of the dense time), ``latency_ms``, or
            shares of ``flops``, ``params`` and ``acts``; a time may have bounds on the costs beside it.
        input_shape (tuple[int]): Input that is traced and timed, ``(1, C, H, W)``.
        image (str): Image by which the deployed file is checked.
        deploy_config (str, optional): Deploy config of mmdeploy; default: that of the model's code base.
        method (str): ``one-shot`` cuts and repairs in rounds without training, ``group-fisher`` prunes while training.
        criterion (str): By which channels are scored, one-shot.
        images (int): Training images of the repair.
        finetune (float): Length of the finetuning, as a share of the training of the base; 0: none.
        lr_ratio (float): The learning rate of the base is multiplied by this in the finetuning.
        threads (int): Threads of the runtime.
        metric (str, optional): By which networks are compared.
        max_drop (float): Points of the metric that the INT8 file may lose.
        int8 (bool): Quantise the deployed file.
        mutate_linear (bool): Prune what linear layers read and produce, too.
    """

    config: str
    checkpoint: str
    folder: Path
    target: Mapping[str, float]
    input_shape: Sequence[int]
    image: str
    deploy_config: Optional[str] = None
    method: str = METHODS[0]
    criterion: str = 'GroupFisher'
    images: int = 512
    finetune: float = 1.0
    lr_ratio: float = 0.5
    threads: int = 1
    metric: Optional[str] = None
    max_drop: float = 1.0
    int8: bool = True
    mutate_linear: bool = False

    def to(self, target: Mapping[str, float]) -> 'CompressOptions':
        """Return the same with another target."""
        return replace(self, target=dict(target))

    @property
    def runtime(self) -> Dict[str, Union[str, int, tuple]]:
        """Where time is measured, as a config says it."""
        return dict(type='OnnxRuntime', threads=self.threads, input_shape=tuple(self.input_shape))


def parse_target(texts: Sequence[str]) -> Dict[str, float]:
    """Return the target that was typed, ``['latency=0.5', 'flops=0.6']``.

    Raises:
        UserError: A part is no ``name=number``, a name is none of :data:`TARGETS`, a share is not between 0 and 1, or
            the parts exclude each other.
    """
    found: Dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition('=')
        if name not in TARGETS:
            raise UserError(f'--target {text}: {name!r} is none of {", ".join(TARGETS)}{nearest(name, TARGETS)}')
        if name in found:
            raise UserError(f'--target {text}: {name} is given twice')
        try:
            parsed = float(value)
        except ValueError:
            raise UserError(f'--target {text}: it must be {name}=NUMBER') from None
        if name == 'latency_ms':
            number('--target latency_ms', parsed, 0, 1e7, 'it is a time in milliseconds', above=True)
        else:
            share(f'--target {name}', parsed, 'it is what stays of the dense model, so it must lie between 0 and 1')
        found[name] = parsed
    if found:
        PruningTarget.of(found)
    return found

