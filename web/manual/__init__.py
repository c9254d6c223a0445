"""The manual, docs/LANGUAGE/*.md: generates its options page, and serves all its pages."""
