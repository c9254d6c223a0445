"""Recordings: decode, filters, encode; mel for spectrograms. Read in this order."""
