"""Images for scores and repairs, sized and padded as YOLO models are shown them when they are tested."""
from pathlib import Path
from typing import Any, Iterable, List, Mapping, Sequence, Union

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset

from ...arguments import UserError, short

Images = Union[Tensor, str, Path, Iterable[Any]]


def images_of(images: Images, size: int, most: int) -> Tensor:
    """Return images ``Tensor[N, 3, H, W]`` of RGB values from 0 to 1.

    Args:
        images (Tensor, str or iterable): Images as they are returned; the yaml of a dataset, whose training images
            are taken; a folder, a text file of paths, an image, or a list of these; or a loader, of tensors, of tuples
            that begin with one or of dicts with ``img``.
        size (int): Height and width to which files are scaled and padded.
        most (int): How many at most: evenly spread over files, the first ones of others.

    Raises:
        UserError: There is no image, or a file cannot be read.
    """
    if isinstance(images, Tensor):
        return _checked(images[:most])
    if isinstance(images, (str, Path)):
        return _read(_files(images), size, most)
    if isinstance(images, (list, tuple)) and images and all(isinstance(one, (str, Path)) for one in images):
        return _read([file for one in images for file in _files(one)], size, most)
    parts = list(_firsts(images, most))
    if not parts:
        raise UserError('there are no images: the list or loader is empty')
    return torch.cat([_checked(part) for part in parts])[:most]


def _firsts(loader: Iterable[Any], most: int) -> Iterable[Any]:
    """Yield the images of a loader's first batches."""
    found = 0
    for batch in loader:
        inputs = batch['img'] if isinstance(batch, Mapping) else batch[0] if isinstance(batch, (list, tuple)) else batch
        yield inputs
        found += len(inputs) if isinstance(inputs, Tensor) and inputs.dim() else 1
        if found >= most:
            return


def _checked(images: Any) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() != 4:
        what = f'a tensor of shape {tuple(images.shape)}' if isinstance(images, Tensor) else short(images)
        raise UserError(f'images has {what}; it must be tensors of images (N, 3, H, W), paths, or a loader of either')
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def _files(source: Union[str, Path]) -> List[Path]:
    """Return the image files that a path stands for."""
    path = Path(source)
    if path.suffix in ('.yaml', '.yml'):
        try:
            train = check_det_dataset(str(path), autodownload=False)['train']
        except (OSError, LookupError, SyntaxError, RuntimeError) as error:
            raise UserError(f'images is {str(path)!r}, and the dataset cannot be used: {str(error).strip()}') from error
        return [file for part in ([train] if isinstance(train, (str, Path)) else train) for file in _files(part)]
    if path.is_dir():
        return sorted(file for file in path.rglob('*') if file.suffix[1:].lower() in IMG_FORMATS)
    if not path.is_file():
        raise UserError(f'images is {str(path)!r}, which is no file or folder')
    if path.suffix == '.txt':
        lines = path.read_text(encoding='utf-8').split('\n')
        return [path.parent / line.strip() for line in lines if line.strip()]
    return [path]


def _read(files: Sequence[Path], size: int, most: int) -> Tensor:
    if not files:
        raise UserError('there are no images in the files and folders that were given')
    chosen = [files[place] for place in np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)]
    letterbox = LetterBox((size, size), auto=False)
    return torch.stack([_tensor(letterbox(image=_pixels(file))) for file in chosen])


def _pixels(file: Path) -> np.ndarray:
    pixels = cv2.imread(str(file))
    if pixels is None:
        raise UserError(f'{str(file)!r} cannot be read as an image')
    return pixels


def _tensor(pixels: np.ndarray) -> Tensor:
    """Return ``Tensor[3, H, W]`` of RGB values of an array ``[H, W, 3]`` of BGR bytes."""
    return torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1))).float() / 255
