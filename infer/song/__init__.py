"""Conversions in memory, and covers of songs. Read in this order: options, convert (stereo, effects, format), stems,
separation, pymss_engine, mix, cover, step_cache.
"""
