"""What a mutator has in a checkpoint: one 0/1 vector a unit."""
from typing import Any, Dict, Mapping, Optional

import numpy as np
import torch
from torch import nn

from .structure import check_structure

KEPT = 'kept.'


class KeptState(nn.Module):
    """Reads and writes which channels the units of a mutator keep."""

    all_units: Any
    _removable: Any

    @property
    def kept(self) -> Dict[str, np.ndarray]:
        """Unit name -> 0/1 vector ``ndarray[width]`` over the first producer's original channels."""
        return {unit.name: unit.kept_channels for unit in self.all_units}

    def _save_to_state_dict(self, destination: Dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, vector in self.kept.items():
            destination[f'{prefix}{KEPT}{name}'] = torch.from_numpy(vector)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        unexpected = args[3] if len(args) > 3 else []
        for key in [key for key in unexpected if key.startswith(prefix + KEPT)]:
            unexpected.remove(key)

    def masks_from(self, state_dict: Mapping[str, Any], prefix: str,
                   source: str = 'the structure of the checkpoint') -> Optional[Dict[str, np.ndarray]]:
        """Read the kept vectors of a checkpoint, which may lack units.

        Args:
            state_dict (dict): A state dict of an algorithm.
            prefix (str): Prefix of the mutator's keys.
            source (str): Where it comes from, for the error message.

        Returns:
            dict or None: Unit name -> kept sets ``ndarray[sets], bool``; None without a structure in the state dict.

        Raises:
            StructureError: The structure does not fit the model.
        """
        start = prefix + KEPT
        vectors = {key[len(start):]: value for key, value in state_dict.items() if key.startswith(start)}
        if not vectors:
            return None
        units, counts = self.all_units, {name: int(vector.sum()) for name, vector in vectors.items()}
        check_structure(counts, units, source, removable=self._removable(counts))
        return {unit.name: unit.mask_of(vectors[unit.name].cpu().numpy()) for unit in units if unit.name in vectors}
