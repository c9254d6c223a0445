"""What the page shows. Read in this order: form, handlers, jobs, convert, train, voices, settings."""
