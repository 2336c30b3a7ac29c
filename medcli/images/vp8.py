"""The quality of a lossy WebP image, read off the quantizer steps in the header of its VP8 frame (RFC 6386)."""

from __future__ import annotations

FRAME_HEAD = 10  # bytes before the part that is packed arithmetically
STEPS = 127
SHAPING = 1.4465  # how libwebp's default sharpens the steps where the eye sees most: the exponent of the coarsest


def estimated_quality(frame: bytes) -> int | None:
    """The quality, 1 to 100, that libwebp was given to make `frame`; None where it is unknown.

    Exact within rounding for libwebp's default strength of spatial shaping, for others the middle of the segments.
    """
    if len(frame) < FRAME_HEAD + 4 or frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
        return None
    steps = [1 - step / STEPS for step in _quantizers(_Bits(frame[FRAME_HEAD:]))]
    if len(steps) == 1:
        return _quality(steps[0])
    return max(_quality(min(steps) ** (1 / SHAPING)), (_quality(min(steps)) + _quality(max(steps))) // 2)


def _quality(fineness: float) -> int:
    """The inverse of libwebp's curve from quality to `fineness`, which is 1 at the finest step."""
    linear = fineness**3
    return min(100, max(1, round(100 * (1.5 * linear if linear < 0.5 else (1 + linear) / 2))))


def _quantizers(bits: _Bits) -> list[int]:
    """The steps of all segments, 0 (finest) to 127; sections 9.3 and 9.6 of the RFC."""
    bits.number(2)  # colour space, clamping
    segments, absolute = [0], 0
    if bits.number(1):
        with_map, with_values = bits.number(1), bits.number(1)
        if with_values:
            absolute = bits.number(1)
            segments = [bits.optional(7) for _ in range(4)]
            for _ in range(4):
                bits.optional(6)  # strength of the loop filter
        for _ in range(3 * with_map):
            if bits.number(1):
                bits.number(8)
    bits.number(10)  # loop filter
    if bits.number(1) and bits.number(1):
        for _ in range(8):
            bits.optional(6)
    bits.number(2)  # partitions
    base = 0 if absolute else bits.number(7)
    return [min(STEPS, max(0, base + each)) for each in segments]


class _Bits:
    """The arithmetic decoder of section 7, for bits of even odds; behind the end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self._rest = iter(data[2:])
        self._value, self._range, self._shifts = int.from_bytes(data[:2], "big"), 255, 0

    def _bit(self) -> int:
        split = 1 + ((self._range - 1) >> 1)
        bit = self._value >= split << 8
        self._range = self._range - split if bit else split
        self._value -= split << 8 if bit else 0
        while self._range < 128:
            self._value, self._range, self._shifts = self._value << 1, self._range << 1, self._shifts + 1
            if self._shifts % 8 == 0:
                self._value |= next(self._rest, 0)
        return int(bit)

    def number(self, count: int) -> int:
        """`count` bits, the highest first."""
        result = 0
        for _ in range(count):
            result = 2 * result + self._bit()
        return result

    def optional(self, count: int) -> int:
        """A number with its sign behind it, or 0 where the first bit says that there is none."""
        if not self.number(1):
            return 0
        result = self.number(count)
        return -result if self.number(1) else result
