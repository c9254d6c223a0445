"""Translation of the web UI.

Read in this order: translator, messages, placeholders, middleware. catalogue checks the translations.
"""
