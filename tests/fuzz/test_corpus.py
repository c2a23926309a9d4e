"""Every decoder over the kept corpus, and over altered inputs that are drawn from a seed: no error but the typed ones.

`make fuzz` is what looks for new inputs, guided by coverage, and keeps them in corpus/.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from fuzz.target import MOST_BYTES, check
from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def corpus(name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((CORPUS / name).glob("*"))]


def mutant(inputs: Sequence[bytes], draw: random.Random) -> bytes:
    """One of the inputs, with a few bytes altered, repeated, moved or cut, or with a piece of another."""
    data = bytearray(draw.choice(inputs))
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at, size = draw.randrange(len(data) + 1), draw.choice((1, 2, 4, 8, 32, 128))
        match draw.randrange(6):
            case 0:
                data[at : at + 1] = bytes([draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))])
            case 1:
                data[at : at + 1] = bytes(byte ^ 1 << draw.randrange(8) for byte in data[at : at + 1])
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                other = draw.choice(inputs)
                data[at:at] = other[(start := draw.randrange(len(other) + 1)) : start + size]
            case _:
                data[at:at] = draw.randbytes(size)
    return bytes(data[:MOST_BYTES])


@pytest.mark.parametrize("name", TARGETS)
def test_what_should_be_read_is_read(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].decode(seed)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_ends_in_a_traceback(name: str) -> None:
    target, draw = TARGETS[name], random.Random(name)
    inputs = [*target.seeds(), *corpus(name), b""]
    for data in inputs:
        check(target, data)
    for _ in range(target.mutants):
        data = mutant(inputs, draw)
        try:
            check(target, data)
        except BaseException as error:
            raise AssertionError(f"{name}: {data!r}") from error
