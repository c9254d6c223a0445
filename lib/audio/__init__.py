"""Recordings: decode, filters, encode; mel for spectrograms. Read in this order."""

ANALYSIS_RATE = 16_000  # Hz; F0 and content features are computed at this rate
