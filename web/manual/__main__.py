"""python -m web.manual: writes docs/LANGUAGE/options.md anew, after a change of an option or of its texts."""

from web.manual.options import write_option_pages

if __name__ == "__main__":
    write_option_pages()
