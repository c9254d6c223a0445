"""Conversion with a voice model.

Read in this order: options, load, batch (many files), convert (one recording), input_audio, chunking, f0 and features,
casting (the precision of the synthesizer), loudness, report. model_cache and lru_cache keep loaded models and computed
features, disk_buffer stores long signals. song/ creates song covers, speech/ synthesises speech, doctor checks the
installation; cli is shared by their commands.
"""
