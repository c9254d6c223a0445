"""Random changes of files, the same for the same seed."""

import random
from collections.abc import Sequence

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)


def mutated(corpus: Sequence[bytes], seed: int) -> bytes:
    """One of the files with one to eight changes; one in twenty is cut off as well."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 8)):
        kind, at = rng.randrange(6), rng.randint(0, len(data))
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            size = rng.choice((1, 2, 4, 8))
            data[at : at + size] = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
        elif kind == 2:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randint(1, 40)] * rng.randint(1, 4)
        elif kind == 4:
            other = rng.choice(corpus)
            begin = rng.randint(0, len(other))
            data[at : at + rng.randint(0, 40)] = other[begin : begin + rng.randint(1, 200)]
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
    return bytes(data[: rng.randint(0, len(data))] if rng.randrange(20) == 0 else data)
