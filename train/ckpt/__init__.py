"""The tools of `python -m train ckpt`: cli (the commands), tools (the operations on model files)."""
