"""How the shipped models were made and measured. Read in this order: pretrain_lite (the models), quality (objective
measures of a voice), browser (graphs for docs/browser)."""
