"""What mmdeploy has to know: importing this registers rewriters for mmcls and tasks that see into our deploy configs.

Imported by :mod:`mmprune.plugin` as soon as a deploy config or model appears in a process that runs mmdeploy, so
upstream's own tools and the processes that they spawn need no extra import.
"""
from . import mmdeploy_rewriters, mmdeploy_task

__all__ = ['mmdeploy_rewriters', 'mmdeploy_task']
