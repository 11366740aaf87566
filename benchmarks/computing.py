"""Where a benchmark computes what it does in PyTorch, and how: --device, --memory-format, --amp and --threads."""
import argparse
import contextlib
from typing import Any, ContextManager, Dict, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mmprune.command_line import device
from mmprune.deploy.machine import cpu_name

MEMORY_FORMATS = ('channels_last', 'contiguous_format')
Placed = TypeVar('Placed', bound=Any)


def add_options(parser: argparse.ArgumentParser, threads: int = 1, amp: bool = True,
                memory_format: str = 'channels_last') -> None:
    """Give a benchmark its options.

    Args:
        parser (ArgumentParser): Of the benchmark.
        threads (int): Of torch, unless others are asked for.
        amp (bool): Whether it trains or tests, which may be done in bfloat16.
        memory_format (str): Of images and layers, unless another is asked for.
    """
    parser.add_argument('--device', type=device, default='cpu', help='where it is computed, such as cuda (cpu)')
    parser.add_argument('--threads', type=int, default=threads, help=f'of torch on the processor ({threads})')
    parser.add_argument('--memory-format', choices=MEMORY_FORMATS, default=memory_format,
                        help='of images and layers (%(default)s)')
    if amp:
        parser.add_argument('--amp', action='store_true', help='train and test in bfloat16 where autocast does')


class Computing(NamedTuple):
    """A device, and the precision of training and testing.

    Attributes:
        device (str): Of models and images.
        amp (bool): Whether forward passes of trainings and tests run under bfloat16's autocast.
        memory_format (str): Name of torch's, of maps ``Tensor[N, C, H, W]`` and the layers that read them.
    """

    device: str = 'cpu'
    amp: bool = False
    memory_format: str = 'channels_last'

    @classmethod
    def of(cls, args: argparse.Namespace) -> 'Computing':
        """Return what was asked for, after telling torch how many threads it has."""
        torch.set_num_threads(args.threads)
        return cls(args.device, getattr(args, 'amp', False), args.memory_format)

    @property
    def name(self) -> str:
        """What the device is called."""
        name = torch.cuda.get_device_name(self.device) if self.device.startswith('cuda') else cpu_name()
        return f'{name}, bfloat16' if self.amp else name

    def placed(self, one: Placed) -> Placed:
        """Return a module, a tensor, or a list or tuple of these on the device, maps and layers in the format."""
        if isinstance(one, (list, tuple)):
            return type(one)(self.placed(part) for part in one)
        if isinstance(one, nn.Module) or isinstance(one, Tensor) and one.dim() == 4:
            return one.to(self.device, memory_format=getattr(torch, self.memory_format))
        return one.to(self.device)

    def autocast(self) -> ContextManager[None]:
        """Return the context of the forward passes of trainings and tests."""
        return torch.autocast(self.device.partition(':')[0], torch.bfloat16) if self.amp else contextlib.nullcontext()

    def optim_wrapper(self, cfg: Dict[str, Any]) -> Dict[str, Any]:
        """Return the config of an optimizer's wrapper, of mmengine's AMP (GPUs only) where it was asked for."""
        return dict(cfg, type='AmpOptimWrapper', dtype='bfloat16') if self.amp else cfg

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.startswith('cuda'):
            torch.cuda.synchronize(self.device)
