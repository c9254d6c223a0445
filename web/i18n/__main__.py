"""Compares i18n/messages/ with the templates in the source code: python -m web.i18n check|missing|obsolete.

`missing` prints the templates that a language lacks as JSON, ready to be translated and merged into i18n/messages/.
"""

import argparse
import json
import sys

from lib.run_main import run_main
from web.i18n.catalogue import TRANSLATED, missing, obsolete, read


def main() -> int:
    """Print the requested templates; `check` returns 1 if a catalogue is incomplete or has obsolete entries."""
    parser = argparse.ArgumentParser(
        prog="python -m web.i18n", description="Compare i18n/messages/ with the templates in the program."
    )
    parser.add_argument("what", choices=["check", "missing", "obsolete"], help="what to report")
    what = parser.parse_args().what
    if what == "missing":
        union = sorted({template for locale in TRANSLATED for template in missing(locale)})
        print(json.dumps(dict.fromkeys(union, ""), ensure_ascii=False, indent=2))
        return 0
    if what == "obsolete":
        print("\n".join(sorted({text for locale in TRANSLATED for text in obsolete(locale)})))
        return 0
    failed = False
    for locale in TRANSLATED:
        lacks, old = len(missing(locale)), len(obsolete(locale))
        print(f"{locale}: {len(read(locale))} translated, {lacks} missing, {old} obsolete")
        failed |= bool(lacks or old)
    return int(failed)


if __name__ == "__main__":
    sys.exit(run_main(main))
