"""What mmdeploy has to know: importing this registers rewriters for mmcls and a task that sees into our deploy configs.

Imported by :mod:`mmprune.plugin` as soon as a deploy config or model appears in a process that runs mmdeploy, so
upstream's own tools and the processes that they spawn need no extra import.
"""
import importlib.util

from . import mmdeploy_rewriters

__all__ = ['mmdeploy_rewriters']

if importlib.util.find_spec('mmpretrain') is not None:
    from . import mmdeploy_task

    __all__ += ['mmdeploy_task']
