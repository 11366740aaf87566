"""Checkpoints of nothing but tensors and plain values, which ``torch.load(..., weights_only=True)`` reads.

mmengine puts NumPy's arrays and numbers and its own histories of the log into a checkpoint. Reading those runs what the
file names, and depends on the version of NumPy.
"""
from collections import OrderedDict
from typing import Any, Dict, Mapping

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

#: What ExactResumeHook adds to a checkpoint, and in it the histories of the log.
KEY, SCALARS = 'mmprune', 'log_scalars'


def pack(checkpoint: Dict[str, Any]) -> None:
    """Make a checkpoint plain, in place; :func:`unpack` is the way back.

    Args:
        checkpoint (dict): As a Runner saves it. The weights are left alone.
    """
    hub = dict(checkpoint.get('message_hub') or {})
    buffers = {name: buffer for name, buffer in (hub.get(SCALARS) or {}).items() if isinstance(buffer, HistoryBuffer)}
    if buffers:  # mmengine resumes without them, too, and then smooths its log from there on
        hub[SCALARS] = OrderedDict(item for item in hub[SCALARS].items() if item[0] not in buffers)
        hub['resumed_keys'] = OrderedDict(item for item in hub['resumed_keys'].items() if item[0] not in buffers)
        checkpoint['message_hub'] = hub
        checkpoint.setdefault(KEY, {})[SCALARS] = {
            name: dict(values=torch.from_numpy(np.array(buffer.data[0], dtype=np.float64)),
                       counts=torch.from_numpy(np.array(buffer.data[1], dtype=np.int64)),
                       max_length=buffer.max_length) for name, buffer in buffers.items()}
    for key in checkpoint:
        if not key.endswith('state_dict'):
            checkpoint[key] = plain_value(checkpoint[key])


def unpack(checkpoint: Dict[str, Any], dataset_meta: Any = None) -> None:
    """Give a checkpoint that was packed what mmengine expects to resume from, in place.

    Args:
        checkpoint (dict): As a Runner loads it, packed or not.
        dataset_meta (dict, optional): Of the data set of this run. Where it says the same it takes the place of the
            plain one, with which mmengine would compare it byte by byte.
    """
    hub, own = checkpoint.get('message_hub') or {}, checkpoint.get(KEY) or {}
    for name, saved in (own.get(SCALARS) or {}).items() if hub else []:
        values, counts = (saved[key].cpu().numpy() for key in ('values', 'counts'))
        hub[SCALARS][name] = HistoryBuffer(values, counts, saved['max_length'])
        hub['resumed_keys'][name] = True
    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and dataset_meta is not None and meta.get('dataset_meta') == plain_value(dataset_meta):
        meta['dataset_meta'] = dataset_meta


def plain_value(value: Any) -> Any:
    """Return nested dicts, lists and tuples without NumPy: arrays become lists, its numbers Python's."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        pairs = ((plain_value(key), plain_value(item)) for key, item in value.items())
        return OrderedDict(pairs) if isinstance(value, OrderedDict) else dict(pairs)
    if type(value) in (list, tuple):
        return type(value)(plain_value(item) for item in value)
    return value
