"""How a voice sounds, in figures: word errors, speaker similarity, F0, pauses. Run as python -m recipes.quality."""
