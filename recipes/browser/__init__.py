"""The graphs of docs/browser, where lite runs in a web browser."""
