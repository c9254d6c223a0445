"""python -m train ckpt: cli (the commands), tools (what they do to voice models)."""
