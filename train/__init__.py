"""Training of voice models. Read in this order: options, experiment, pipeline; preprocess, slicer, extract,
feature_augment, augment; index; dataset, networks, losses, objective, state, step, setup, loop, checkpoints; estimate,
data_report, metrics, base_models; distributed; ckpt/ (tools for finished voices).
"""
