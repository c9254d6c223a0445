"""Speech from text and subtitles, as input to a conversion.

Read in this order: options, script, engines, say.
"""
