"""How the bundled models were trained and measured.

Read in this order: pretrain_lite (the models), quality (objective measures of a voice), browser (ONNX graphs for
docs/browser).
"""
