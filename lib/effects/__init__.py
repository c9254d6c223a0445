"""Audio effects for recordings (C, T).

Read in this order: loudness, stereo (image), noise, formants; spec and chain (a chain of studio effects), dynamics,
equaliser, space.
"""
