"""Training of voice models. Read in this order: options, experiment; preprocess, slicer, extract, feature_augment,
augment; index; dataset, losses, step, state, loop, checkpoints; estimate, data_report, metrics, base_models;
distributed, launch; ckpt/ (tools for finished voices).
"""
