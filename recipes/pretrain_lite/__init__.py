"""How pretrained/lite/ was trained.

Read in this order: options, recordings (the data, split by speaker), speech (synthetic speech); features; scheduled,
acoustic (bottleneck of the encoder and prior, by regression), predict; vocoder; export; noise (training of the exported
bottleneck on noisy clips).
"""
