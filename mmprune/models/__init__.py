"""Models that configs name: the model that a run prunes, and the smaller plain models that are built from its results.

Open ``pruning_algorithm.py`` first: the model of a prune run. ``prune_sub_model.py`` builds the model for finetuning,
``distill.py`` adds a teacher, ``prune_deploy_sub_model.py`` builds the model for deployment, ``transfer.py`` a model
with a pruned part of another model. The folder may import config, units, graph and what is below them.
"""
