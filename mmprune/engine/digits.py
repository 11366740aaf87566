"""Small real data sets that ship with a dependency."""
from typing import Callable, List, Optional, Sequence, Union

import numpy as np
from mmengine.dataset import BaseDataset

from ..arguments import one_of, whole_number
from ..registry import DATASETS


@DATASETS.register_module()
class Digits(BaseDataset):
    """Handwritten digits of scikit-learn: 1,797 images of 8x8 pixels, 10 classes.

    Args:
        split (str): ``train`` (the first 1,400 of a fixed shuffle) or ``test`` (the other 397).
        pipeline (list): Transforms; each sample is ``dict(img=uint8[8, 8, 3], gt_label=int)``.
        test_mode (bool): As in mmengine.
        indices (int or list[int], optional): The first so many samples, or those of the list.
    """

    METAINFO = {'classes': tuple('0123456789')}
    NUM_TRAIN = 1400

    def __init__(self, split: str = 'train', pipeline: Optional[List[Union[dict, Callable]]] = None,
                 test_mode: bool = False, indices: Optional[Union[int, Sequence[int]]] = None) -> None:
        self.split = one_of('Digits: split', split, ('train', 'test'))
        if isinstance(indices, (list, tuple)):
            for index in indices:
                whole_number('Digits: an index', index, 0)
        elif indices is not None:
            whole_number('Digits: indices', indices)
        super().__init__(pipeline=pipeline or [], test_mode=test_mode, indices=indices, serialize_data=False)

    def load_data_list(self) -> List[dict]:
        """Return the samples of the split."""
        from sklearn.datasets import load_digits  # an optional dependency

        digits = load_digits()
        order = np.random.RandomState(0).permutation(len(digits.images))
        chosen = order[:self.NUM_TRAIN] if self.split == 'train' else order[self.NUM_TRAIN:]
        images = np.rint(digits.images * 255 / 16).astype(np.uint8)
        return [dict(img=np.repeat(images[i][..., None], 3, axis=2), gt_label=int(digits.target[i])) for i in chosen]
