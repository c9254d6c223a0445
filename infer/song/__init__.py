"""In-memory conversion, and song covers.

Read in this order: options, convert (stereo, effects, format), stems, separation, pymss_engine, key_change, mix, cover,
step_cache.
"""
