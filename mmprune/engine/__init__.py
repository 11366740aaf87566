"""What runs inside a Runner of mmengine: hooks, wrappers for distributed training, reproducible data.

Open ``hook.py`` first: the hook of a Group Fisher run. The folder ``schedules`` has those of the other criteria;
``checkpoint_hook.py`` and ``resume_hook.py`` let a killed run continue. It may import everything but the commands.
"""
