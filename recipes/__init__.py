"""How what is shipped was made and measured: pretrain_lite (its models), quality (how a voice sounds)."""
