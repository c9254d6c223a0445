"""Objective measures of a voice: python -m recipes.quality.

Read in this order: clips, words, speech_models, figures, vocoder, evaluation, page.
"""
