"""Generates docs/LANGUAGE/options.md again, after a change of an option or of its texts: python -m web.manual."""

from web.manual.options import write_option_pages

if __name__ == "__main__":
    write_option_pages()
