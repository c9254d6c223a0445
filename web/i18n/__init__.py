"""The page in many languages. Read in this order: translator, messages, placeholders, middleware; catalogue checks."""
