"""Mutations of the structure of JPEG, PNG and WebP files: their segments or chunks, with lengths, order and number."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

EXTREMES = (0, 1, 2, 3, 255, 16383, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = ("B", ">H", ">I", "<H", "<I")
MANY = 500  # times that a piece is repeated


def mutated_jpeg(data: bytes, rng: random.Random) -> bytes:
    """A scan is a piece of its own, beside the segment that starts it."""
    pieces, at = [data[:2]], 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0, *range(0xD0, 0xDA)):
            stop = min(
                (found for mark in b"\xc4\xd9\xda" if (found := data.find(bytes((255, mark)), at + 2)) > 0), default=0
            )
            stop = stop or len(data)
        else:
            stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        pieces.append(data[at:stop])
        at = stop
    return _mutated([*pieces, data[at:]], rng, bytes)


def mutated_png(data: bytes, rng: random.Random) -> bytes:
    """Most changed chunks get a right checksum, so that the reader goes on."""
    pieces, at = [data[:8]], 8
    while at < len(data):
        stop = at + 12 + int.from_bytes(data[at : at + 4], "big")
        pieces.append(data[at:stop])
        at = stop
    return _mutated(pieces, rng, _sealed)


def mutated_webp(data: bytes, rng: random.Random) -> bytes:
    """At times the size of the whole is made right again."""
    pieces, at = [data[:12]], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        stop = at + 8 + length + length % 2
        pieces.append(data[at:stop])
        at = stop
    result = _mutated(pieces, rng, bytes)
    return result[:4] + struct.pack("<I", max(0, len(result) - 8)) + result[8:] if rng.random() < 0.7 else result


def _sealed(chunk: bytes) -> bytes:
    return chunk[:-4] + struct.pack(">I", zlib.crc32(chunk[4:-4])) if len(chunk) >= 12 else chunk


def _mutated(pieces: list[bytes], rng: random.Random, repair: Callable[[bytes], bytes]) -> bytes:
    """One to three changes: numbers and bytes inside a piece; pieces gone, doubled, moved, cut, many; bytes between."""
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(pieces))
        piece, change = pieces.pop(at), rng.choice((_number, _number, _number, _byte, _cut))
        step = rng.random()
        if step < 0.7:
            changed = change(piece, rng)
            pieces.insert(at, repair(changed) if rng.random() < 0.9 else changed)
        elif step < 0.8:
            pieces.insert(rng.randint(0, len(pieces)), piece)
        elif step < 0.9:
            pieces[at:at] = [piece] * rng.choice((0, 2, 3, MANY))
        else:
            pieces[at:at] = [rng.randbytes(rng.randint(1, 4)), piece]
        pieces = pieces or [piece]
    result = b"".join(pieces)
    return result[: rng.randrange(len(result))] if result and rng.random() < 0.05 else result


def _number(piece: bytes, rng: random.Random) -> bytes:
    """A number near the start, where lengths, sides and counts lie, set to an extreme, or changed a little."""
    code = rng.choice(NUMBERS)
    size = struct.calcsize(code)
    if len(piece) < size:
        return piece
    at = rng.randrange(min(32, len(piece) - size + 1))
    (old,) = struct.unpack_from(code, piece, at)
    new = rng.choice((*EXTREMES, old + 1, old - 1, 2 * old, old // 2, len(piece), rng.getrandbits(8 * size)))
    return piece[:at] + struct.pack(code, new % 2 ** (8 * size)) + piece[at + size :]


def _byte(piece: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(piece)) if piece else 0
    return piece[:at] + rng.randbytes(1) + piece[at + 1 :]


def _cut(piece: bytes, rng: random.Random) -> bytes:
    return piece[: rng.randint(0, len(piece))]
