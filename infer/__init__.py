"""Conversion with a voice model. Read in this order: options, load, batch (many files), convert (one recording),
input_audio, chunking, f0 and features, casting (the precision of the synthesizer), loudness, report. model_cache,
lru_cache and disk_buffer hold what is used again.
"""
