"""The recipe of pretrained/lite/. Read in this order: options, recordings (what is read, split by reader); features;
acoustic (bottleneck of the encoder and prior, by regression); vocoder; export; demo.
"""
