"""Training of voice models.

Read in this order: options, experiment, record, speakers, pipeline, preflight; preprocess, slicer, extract,
feature_augment, augment, index (the stages before training); dataset, networks, losses, objective, lite_objective,
state, step, setup, loop (training); checkpoint_index, checkpoints, swap (files); samples, held_out, history, best_epoch
(evaluation); estimate, data_report, metrics, base_models, distributed; ckpt/ (tools for finished voices).
"""
