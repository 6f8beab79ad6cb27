"""Damaged files: every reader gives the content of the sound file, or one of its documented errors, and soon.

Formats without checksums cannot be checked so: JPEG, ``.flo``, H.264, text files, JSON and weights in the format before
torch 1.6 may give another value, of the right form.
"""

import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.readers import READERS

pytestmark = pytest.mark.faults

SECONDS = 20  # per file


class Hangs(BaseException):
    """No reader may catch it."""


@contextmanager
def time_limit() -> Iterator[None]:
    def end(*_):
        raise Hangs(f"no answer within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flipped(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : rng.choice((len(data), start + rng.randint(1, 64)))]


def inserted(data: bytearray, rng: random.Random) -> None:
    start = rng.randint(0, len(data))
    data[start:start] = rng.choice((rng.randbytes(rng.randint(1, 64)), bytes(rng.randint(1, 64)), data[start:]))


def swapped(data: bytearray, rng: random.Random) -> None:
    size = rng.randint(1, min(64, len(data) // 2))
    one = rng.randint(0, len(data) - 2 * size)
    other = rng.randint(one + size, len(data) - size)
    first, second = data[one : one + size], data[other : other + size]
    data[one : one + size], data[other : other + size] = second, first


def zeroed(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randint(1, 512))
    data[start:end] = bytes(end - start)


def emptied(data: bytearray, _: random.Random) -> None:
    data.clear()


KINDS = [flipped, flipped, flipped, cut, inserted, swapped, zeroed]


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_gives_a_documented_error_or_its_content(name, tmp_path, request):
    reader = READERS[name](tmp_path)
    sound, content = reader.path.read_bytes(), reader.read()
    rng, counts = random.Random(name), Counter()
    for number in range(1000 if request.config.getoption("--long") else 30):
        data, kind = bytearray(sound), emptied if number == 0 else rng.choice(KINDS)
        kind(data, rng)
        reader.path.write_bytes(data)
        try:
            with time_limit():
                found = reader.read()
        except reader.errors as error:
            assert len(str(error).splitlines()) <= 1
            counts["refused"] += 1
            continue
        except BaseException as error:
            raise AssertionError(f"mutation {number}, {kind.__name__}: {type(error).__name__}: {error}") from error
        if found == content:
            counts["same"] += 1
            continue
        assert reader.fits is not None and reader.fits(found), f"mutation {number}, {kind.__name__}: another content"
        counts["another value"] += 1
    print(f"{name}: {', '.join(f'{count} {what}' for what, count in sorted(counts.items()))}")
    reader.path.write_bytes(sound)
    assert reader.read() == content
