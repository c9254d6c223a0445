"""Every network of the project; nothing here opens a file."""
