"""Conversion with a voice model. Read in this order: options, batch (many files), convert (one recording), input_audio,
chunking, features and f0, loudness; model_cache, lru_cache and disk_buffer hold what is used again; report.
"""
