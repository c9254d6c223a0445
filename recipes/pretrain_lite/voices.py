"""Which synthetic voices speak, how much of each, and under which licence."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipes.pretrain_lite.text import WORD_LISTS

Engine = Literal["flite", "festival", "espeak", "pico", "rhvoice"]


@dataclass(frozen=True)
class SyntheticVoice:
    """One voice of one engine. `phone_set` groups the voices whose phone names mean the same."""

    engine: Engine
    name: str
    language: str
    phone_set: str
    hours: float
    package: str
    licence: str
    encoding: str = "utf-8"


_CMU = "free use, modification and sale with notice (CMU)"
_CSTR = "free use, modification and sale with notice (University of Edinburgh CSTR, CMU)"
_ESPEAK = "program and data GPL-3.0-or-later; vowels by formant synthesis"

NATURAL_VOICES: tuple[SyntheticVoice, ...] = (
    SyntheticVoice("flite", "awb", "en", "en", 0.75, "flite", _CMU),
    SyntheticVoice("flite", "rms", "en", "en", 0.75, "flite", _CMU),
    SyntheticVoice("flite", "slt", "en", "en", 0.75, "flite", _CMU),
    SyntheticVoice("flite", "kal16", "en", "en", 0.4, "flite", _CMU),
    SyntheticVoice("festival", "kal_diphone", "en", "en", 0.35, "festvox-kallpc16k", _CSTR),
    SyntheticVoice("festival", "ked_diphone", "en", "en", 0.6, "festvox-kdlpc16k", _CSTR),
    SyntheticVoice("festival", "cmu_us_slt_arctic_hts", "en", "en", 0.6, "festvox-us-slt-hts", _CMU),
    SyntheticVoice("festival", "czech_dita", "cs", "cs", 0.25, "festvox-czech-dita", "GPL-3+", "iso-8859-2"),
    SyntheticVoice("festival", "czech_krb", "cs", "cs", 0.25, "festvox-czech-krb", "GPL-3+", "iso-8859-2"),
    SyntheticVoice("festival", "czech_machac", "cs", "cs", 0.25, "festvox-czech-machac", "GPL-3+", "iso-8859-2"),
    SyntheticVoice("festival", "czech_ph", "cs", "cs", 0.25, "festvox-czech-ph", "GPL-2", "iso-8859-2"),
    SyntheticVoice("festival", "suo_fi_lj_diphone", "fi", "fi", 0.25, "festvox-suopuhe-lj", "LGPL-2.1", "iso-8859-1"),
    SyntheticVoice("festival", "hy_fi_mv_diphone", "fi", "fi", 0.25, "festvox-suopuhe-mv", "LGPL-2.1", "iso-8859-1"),
    SyntheticVoice("festival", "lp_diphone", "it", "it", 0.25, "festvox-italp16k", "GPL", "iso-8859-1"),
    SyntheticVoice("festival", "pc_diphone", "it", "it", 0.25, "festvox-itapc16k", "GPL", "iso-8859-1"),
    SyntheticVoice("festival", "msu_ru_nsh_clunits", "ru", "ru", 0.3, "festvox-ru", "as CMU; packaging GPL-3"),
    SyntheticVoice("festival", "hindi_NSK_diphone", "hi", "hi", 0.25, "festvox-hi-nsk", "GPL-2+"),
    SyntheticVoice("festival", "upc_ca_ona_hts", "ca", "ca", 0.3, "festvox-ca-ona-hts", "LGPL-2.1+", "iso-8859-1"),
)

_ESPEAK_ENGLISH = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
ESPEAK_OTHERS = {
    "de": "de", "fr": "fr", "es": "es", "it": "it", "pl": "pl", "pt-br": "pt", "nl": "nl", "sv": "sv", "ru": "ru",
    "cs": "cs", "ca": "ca",
}  # fmt: skip
_PICO = "Apache-2.0; in Debian's non-free, because the voices come without their sources"
PICO_VOICES: tuple[SyntheticVoice, ...] = (
    SyntheticVoice("pico", "en-US", "en", "en", 0.9, "libttspico-utils", _PICO),
    SyntheticVoice("pico", "en-GB", "en", "en", 0.9, "libttspico-utils", _PICO),
    SyntheticVoice("pico", "de-DE", "de", "espeak-de", 0.25, "libttspico-utils", _PICO),
    SyntheticVoice("pico", "fr-FR", "fr", "espeak-fr", 0.25, "libttspico-utils", _PICO),
    SyntheticVoice("pico", "es-ES", "es", "espeak-es", 0.25, "libttspico-utils", _PICO),
    SyntheticVoice("pico", "it-IT", "it", "espeak-it", 0.25, "libttspico-utils", _PICO),
)
_RHVOICE = "LGPL-2.1+; in Debian's non-free, because the voices are trained networks without their sources"
# Only the voices whose terms allow any use; most others of these packages forbid commercial use or derivatives.
RHVOICE_VOICES: tuple[SyntheticVoice, ...] = (
    SyntheticVoice("rhvoice", "alan", "en", "en", 0.8, "rhvoice-english", _RHVOICE),
    SyntheticVoice("rhvoice", "bdl", "en", "en", 0.9, "rhvoice-english", _RHVOICE),
    SyntheticVoice("rhvoice", "clb", "en", "en", 0.9, "rhvoice-english", _RHVOICE),
    SyntheticVoice("rhvoice", "slt", "en", "en", 0.3, "rhvoice-english", _RHVOICE),
    SyntheticVoice("rhvoice", "aleksandr", "ru", "espeak-ru", 0.25, "rhvoice-russian", _RHVOICE),
    SyntheticVoice("rhvoice", "anna", "ru", "espeak-ru", 0.25, "rhvoice-russian", _RHVOICE),
    SyntheticVoice("rhvoice", "elena", "ru", "espeak-ru", 0.25, "rhvoice-russian", _RHVOICE),
    SyntheticVoice("rhvoice", "irina", "ru", "espeak-ru", 0.25, "rhvoice-russian", _RHVOICE),
)
ESPEAK_VOICES: tuple[SyntheticVoice, ...] = (
    *(SyntheticVoice("espeak", name, "en", "en", 0.2, "espeak-ng", _ESPEAK) for name in _ESPEAK_ENGLISH),
    *(
        SyntheticVoice("espeak", name, language, f"espeak-{language}", 0.1, "espeak-ng", _ESPEAK)
        for name, language in ESPEAK_OTHERS.items()
    ),
)
VOICES = NATURAL_VOICES + PICO_VOICES + RHVOICE_VOICES + ESPEAK_VOICES

# Timbres that keep a human spectrum; the robot and effect variants are left out.
ESPEAK_VARIANTS: tuple[str, ...] = (
    "Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Henrique", "Hugo", "Jacky", "Lee",
    "Marco", "Mario", "Michael", "Mike", "Nguyen", "Storm", "adam", "anika", "antonio", "aunty", "belinda",
    "benjamin", "boris", "caleb", "david", "ed", "edward", "f1", "f2", "f3", "f4", "f5", "grandma", "grandpa",
    "gustave", "iven", "john", "klatt", "klatt2", "klatt3", "klatt4", "linda", "m1", "m2", "m3", "m4", "m5", "m6",
    "m7", "m8", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob",
    "robert", "sandro", "shelby", "steph", "steph2", "travis", "victor", "zac",
)  # fmt: skip
_FESTIVAL_VOICES = Path("/usr/share/festival/voices")
_RHVOICE_VOICES = Path("/usr/share/RHVoice/voices")
_PROGRAMS = {
    "bible": "bible-kjv",
    "espeak-ng": "espeak-ng",
    "festival": "festival",
    "flite": "flite",
    "pico2wave": "libttspico-utils",
    "RHVoice-test": "rhvoice",
}


def missing_packages() -> list[str]:
    """The Debian packages that the corpus needs and this system lacks, judged by their files."""
    missing = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    missing |= {words.package for words in WORD_LISTS.values() if not words.path.is_file()}
    festival = (voice for voice in VOICES if voice.engine == "festival")
    missing |= {voice.package for voice in festival if not any(_FESTIVAL_VOICES.glob(f"*/{voice.name}"))}
    missing |= {voice.package for voice in RHVOICE_VOICES if not (_RHVOICE_VOICES / voice.name).is_dir()}
    return sorted(missing)
