"""Model files. Read in this order: safe_load, weights (tables of tensors), infer_config (the shape of the network),
model_file (voices), training_state, archive (voice, index and card), library (which voices exist).
"""
