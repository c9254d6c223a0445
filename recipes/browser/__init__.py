"""The graphs of docs/browser, which runs lite voices in a web browser."""
