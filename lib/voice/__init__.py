"""Model files.

Read in this order: safe_load, weights (state dicts), rvc_config, lite_config and infer_config (the network to
which the tensors belong), model_file and edit_file (voices), training_state, archive (voice, index and card), intake
(loose files), links (downloads), library (lists of voices).
"""
