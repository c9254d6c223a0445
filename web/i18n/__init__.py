"""The page in many languages. Read in this order: translator, messages (errors of the program), middleware."""
