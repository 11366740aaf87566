"""The images of a repair: batches of what a model is called with, of which some are held back."""
import math
from typing import Any, Collection, Iterable, List, Sequence, Set, Tuple, Union

from torch import Tensor, nn

from ..arguments import UserError
from ..graph.demo_input import DemoInput
from ..graph.nested import output_tensors

#: Images of a batch, where all of them are given as one tensor, and of how many batches one is held back.
BATCH, HELD_BACK = 25, 5
#: Images that go through a network at once while its layers are solved. What lies between layers is then small enough
#: that a CPU's allocator keeps its memory: at 224 x 224, fresh pages for batches of 25 took a third of the time.
PORTION = 10


def batches_of(images: Union[Tensor, Iterable[Any]]) -> Tuple[List[Any], List[int]]:
    """Return the batches, and the numbers of those that are held back: the last of every five.

    Args:
        images (Tensor[N, *] or iterable): All images, or batches of what the model is called with.

    Raises:
        UserError: There are not two batches, or not two images.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    if len(batches) == 1 and isinstance(batches[0], Tensor) and batches[0].dim():
        rows = len(batches[0])
        batches = list(batches[0].split(max(1, min(BATCH, rows // HELD_BACK))))
    if len(batches) < 2:
        raise UserError(f'a repair got {len(batches)} batches of images; it takes two or more, of which it holds some '
                        'back to see what it is worth: give smaller batches, or all images as one tensor')
    if not all(output_tensors(batch) for batch in batches):
        raise UserError('a repair got a batch without a tensor; it takes batches of what the model is called with')
    held = [number for number in range(len(batches)) if number % HELD_BACK == HELD_BACK - 1]
    return batches, held or [len(batches) - 1]


def portions_of(model: nn.Module, batches: Sequence[Any], held: Collection[int]) -> Tuple[List[Any], Set[int]]:
    """Return batches in even portions of :data:`PORTION` images at most, and which portions are held back.

    Args:
        model (nn.Module): What is called with them; the batches stay whole where it is not on a CPU.
        batches (list): Batches; what is no tensor, or plain demo input of one, stays as it is.
        held (collection[int]): The numbers of those that are held back.
    """
    found: List[Any] = []
    chosen: Set[int] = set()
    on_cpu = all(parameter.device.type == 'cpu' for parameter in model.parameters())
    for number, batch in enumerate(batches):
        plain = type(batch) is DemoInput  # others draw regions for the images of a batch
        images = batch.images if plain else batch
        parts: List[Any] = [batch]
        if on_cpu and isinstance(images, Tensor) and images.dim() and len(images):
            parts = list(images.chunk(math.ceil(len(images) / PORTION)))
            parts = [batch.with_images(part) for part in parts] if plain else parts
        if number in held:
            chosen |= {*range(len(found), len(found) + len(parts))}
        found += parts
    return found, chosen


def rows_of(batch: Any) -> int:
    """Return how many images a batch has."""
    tensor = next((tensor for tensor in output_tensors(batch) if tensor.dim()), None)
    return 1 if tensor is None else len(tensor)


def few_rows(batch: Any) -> Any:
    """Return the first two images of a batch that is one tensor, or a demo input of one, else the batch."""
    if isinstance(batch, DemoInput) and batch.images is not None:
        return batch.with_images(batch.images[:2])
    return batch[:2] if isinstance(batch, Tensor) else batch
