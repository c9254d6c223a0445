"""Speech from text and subtitles, as input of a conversion.

Read in this order: options, script, engines, say.
"""
