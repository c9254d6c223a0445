"""The manual, docs/LANGUAGE/*.md: its page of options is generated, and the server shows all of it."""
