"""Objective measures of a voice: word errors, speaker similarity, F0, pauses. Run as python -m recipes.quality."""
