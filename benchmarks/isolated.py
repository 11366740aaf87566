"""Run a function in a forked process, with limits of memory and time, and keep results as lines of json."""
import json
import multiprocessing
import resource
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import torch
from torch import nn

from mmprune.units.equivalence import outputs

GIB = 2 ** 30
Result = Dict[str, Any]


def in_process(function: Callable[[str], Result], name: str, gib: float, seconds: float,
               cpu_seconds: Optional[float] = None) -> Result:
    """Run ``function(name)`` in a forked process, since importing torch takes longer than most models.

    Args:
        function (Callable): Returns plain values.
        name (str): Of the model; added to the result.
        gib (float): Memory that the process may take.
        seconds (float): That it may take by the clock.
        cpu_seconds (float, optional): CPU time that it may take.

    Returns:
        dict: The result with ``name``, ``peak_gib`` and ``cpu_seconds``; ``error`` where there is no result.
    """
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(function, name, gib, cpu_seconds, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(seconds):
            return dict(receiver.recv())
        return dict(name=name, error=f'not finished within {seconds:.0f} s')
    except EOFError:
        process.join()
        return dict(name=name, error=f'its process was killed, exit code {process.exitcode}')
    finally:
        process.kill()
        process.join()


def _run(function: Callable[[str], Result], name: str, gib: float, cpu_seconds: Optional[float], sink: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * GIB),) * 2)
    if cpu_seconds is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds),) * 2)
    Path('/proc/self/oom_score_adj').write_text('1000')  # where memory is short all the same, this goes first
    warnings.simplefilter('ignore')
    try:
        result = function(name)
    except Exception as error:  # noqa: BLE001  (a sweep goes on)
        lines = str(error).splitlines() or ['']
        result = dict(error=f'{type(error).__name__}: {lines[0][:300]}')
    used = resource.getrusage(resource.RUSAGE_SELF)
    sink.send(dict(result, name=name, peak_gib=used.ru_maxrss / 2 ** 20, cpu_seconds=used.ru_utime + used.ru_stime))


def peak_bytes(reset: bool = False) -> int:
    """Return the most memory that this process has held since the last reset."""
    if reset:
        Path('/proc/self/clear_refs').write_text('5')
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM'))


def run(model: nn.Module, images: torch.Tensor, training: bool) -> List[torch.Tensor]:
    """Return a model's outputs in eval or train mode; its buffers are as before."""
    before = [buffer.clone() for buffer in model.buffers()]
    result = outputs(model, lambda net: net(images), training)
    for buffer, value in zip(model.buffers(), before):
        buffer.copy_(value)
    return result


def available_gib() -> float:
    """Return the memory that is free."""
    lines = Path('/proc/meminfo').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable')) / 2 ** 20


def read(path: Path) -> Dict[str, Result]:
    """Return name -> its last result."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {result['name']: result for result in map(json.loads, lines)}
