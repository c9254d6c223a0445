"""The manual, docs/LANGUAGE/*.md: generates its page of options, and serves all its pages."""
