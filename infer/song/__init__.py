"""Conversions that need the whole recording in memory, covers of songs, and speech from text."""
