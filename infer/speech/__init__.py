"""Speech from text and subtitles, as input of a conversion."""
