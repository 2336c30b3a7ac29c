"""The first bits of a JPEG XL codestream: size, whether it is lossless, and where it says how numbers encode light.

Source: ISO/IEC 18181-1, annex D (headers); bits are taken from the lowest of each byte on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SRGB, LINEAR = 13, 8  # transfer functions, by the numbers of ITU-T H.273
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
RGB, GRAY, XYB = 0, 1, 2
ALPHA = 0
HEAD = 512  # bytes


@dataclass
class Bits:
    """A reader of bits."""

    data: bytes
    at: int = 0
    whole: int = field(init=False)

    def __post_init__(self) -> None:
        self.whole = int.from_bytes(self.data[:HEAD], "little")

    def take(self, count: int = 1) -> int:
        self.at += count
        return self.whole >> (self.at - count) & ((1 << count) - 1)

    def one_of(self, *choices: tuple[int, int]) -> int:
        """U32: two bits choose (offset, number of further bits)."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)

    def enum(self) -> int:
        return self.one_of((0, 0), (1, 0), (2, 4), (18, 6))


def size_of(codestream: bytes) -> tuple[int, int]:
    """(width, height) in pixels."""
    return _size(Bits(codestream, 16))


def _size(bits: Bits) -> tuple[int, int]:
    small = bits.take()

    def side() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.one_of((1, 9), (1, 13), (1, 18), (1, 30))

    height = side()
    ratio = bits.take(3)
    return (height * RATIOS[ratio][0] // RATIOS[ratio][1] if ratio else side()), height


def is_lossless(codestream: bytes) -> bool:
    """Whether the samples are the original ones, not XYB, in which lossy files are; False where it is not known."""
    bits = Bits(codestream, 16)
    _size(bits)
    return not bits.take() and _before_colours(bits) is False


def with_transfer(codestream: bytes, transfer: int) -> bytes:
    """The codestream that says `transfer`, 3 to 17, where it said another one of these; else as it is."""
    bits = Bits(codestream, 16)
    _size(bits)
    if bits.take() or _before_colours(bits) is None or bits.take():
        return codestream
    profile, space = bits.take(), bits.enum()
    if profile or space not in (RGB, GRAY) or bits.enum() != 1:  # white other than D65
        return codestream
    if space == RGB and bits.enum() != 1:  # primaries other than those of sRGB
        return codestream
    if bits.take() or bits.take(2) != 2:  # a gamma, or a number that takes no 4 bits
        return codestream
    mask = 15 << bits.at
    whole = bits.whole & ~mask | (transfer - 2) << bits.at
    return whole.to_bytes(min(HEAD, len(codestream)), "little") + codestream[HEAD:]


def _before_colours(bits: Bits) -> bool | None:
    """Reads up to the colour encoding and tells whether samples are XYB; None for fields that are not followed."""
    if bits.take():
        bits.take(3)
        if bits.take(3):  # intrinsic size, preview or animation
            return None
    _depth(bits)
    bits.take()
    for _ in range(bits.one_of((0, 0), (1, 0), (2, 4), (1, 12))):
        if bits.take():
            continue
        if bits.enum() != ALPHA:
            return None
        _depth(bits)
        bits.one_of((0, 0), (3, 0), (4, 0), (1, 3))
        bits.take(8 * bits.one_of((0, 0), (0, 4), (16, 5), (48, 10)))
        bits.take()
    return bool(bits.take())


def _depth(bits: Bits) -> None:
    if bits.take():
        bits.one_of((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)
    else:
        bits.one_of((8, 0), (10, 0), (12, 0), (1, 6))
