"""Fuzzing of every parser that reads bytes from outside: targets.py, and __main__.py, which runs them."""
