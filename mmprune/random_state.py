"""The random number generators of this process: Python's, NumPy's, torch's; read, set, and borrowed."""
import random
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Sequence

import numpy as np
import torch

State = Dict[str, Any]


def random_state() -> State:
    """Return the state of all generators as plain numbers and tensors, which a checkpoint can hold."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return dict(
        python=(version, torch.tensor(numbers, dtype=torch.int64), gauss),
        numpy=(str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss),
               float(cached)),
        torch=torch.get_rng_state(), cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])


def set_random_state(state: State) -> None:
    """Set all generators to a state from :func:`random_state`."""
    version, numbers, gauss = state['python']
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state['numpy']
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([one.cpu() for one in state['cuda'][:torch.cuda.device_count()]])


@contextmanager
def seeded(entropy: Sequence[int]) -> Iterator[None]:
    """Draw from generators of the CPU that are seeded by some numbers, and leave the process's own where they were.

    Args:
        entropy (sequence[int]): Not negative; every other sequence gives other random numbers.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = np.random.SeedSequence(list(entropy)).generate_state(3).tolist()
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    torch.default_generator.manual_seed(seeds[2])
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
