"""A data set of random numbers, in a file that the workers of a loader can import."""
import random

import numpy as np
import torch
from torch.utils.data import Dataset


class Squares(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), float(torch.rand(()))
