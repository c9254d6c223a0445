"""Model files. Read in this order: safe_load, weights (tables of tensors), rvc_config and infer_config (the network
that the tensors belong to), model_file (voices), training_state, archive (voice, index and card), library (which
voices exist).
"""
