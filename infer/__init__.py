"""Uses voice models: converts recordings."""
