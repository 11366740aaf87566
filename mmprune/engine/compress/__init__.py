"""The whole road from a checkpoint to a file for the device, by the commands that a user would type.

Open ``road.py`` first: it runs the stages one after the other and skips those that are done. ``stages.py`` says which
commands a stage is and what it leaves behind, ``configs.py`` writes the configs that they read, ``estimate.py`` says
how long it will take.
"""
