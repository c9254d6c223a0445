"""Makes voice models: prepares recordings, extracts features, trains, builds the index."""
