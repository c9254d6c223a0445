"""The recipe that made pretrained/lite/: speech from free synthesisers, a content encoder trained on it."""
