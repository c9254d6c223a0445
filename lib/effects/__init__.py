"""Effects on recordings (C, T): loudness, stereo image, noise, formants, and a chain of studio effects."""
