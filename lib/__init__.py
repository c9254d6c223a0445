"""Used by both sides, or a network, or a file format: nothing else belongs here."""
