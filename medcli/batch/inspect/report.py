"""What `med inspect` says of a file, and of all files of a camera."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image, ImageCms

from medcli.data.inspection import Inspection, NoiseLevel, inspect, jpeg_quality
from medcli.images import read
from medcli.images.values import RangeChoice, range_of
from medcli.zoo.choice import Choice, choose

MODEL, EXIF_IFD, ISO = 0x0110, 0x8769, 0x8827  # tags of EXIF
HEADINGS = ("file", "size", "type", "noise", "luma", "chroma", "correlation", "model", "strength")


@dataclass(frozen=True)
class Report:
    """A file with what was found. camera, iso: of EXIF, empty and 0 where it does not say. profile: its description."""

    path: Path
    format: str
    pages: int
    seen: Inspection
    choice: Choice
    camera: str = ""
    iso: int = 0
    profile: str = ""
    quality: int | None = None

    def as_object(self) -> dict[str, Any]:
        """For JSON."""
        seen = asdict(self.seen) | {
            "values": [self.seen.values.low, self.seen.values.high],
            "sigma": self.seen.sigma,
            "noisy": self.seen.noisy,
            "smoothed": self.seen.smoothed,
            "white_gaussian": self.seen.white_gaussian,
            "gray": self.seen.gray,
        }
        about = {name: getattr(self, name) for name in ("format", "pages", "camera", "iso", "profile", "quality")}
        return {"file": str(self.path), **about, **seen, "proposed": self.choice._asdict()}

    def cells(self) -> tuple[str, ...]:
        """The row of a table, under HEADINGS."""
        luma, chroma = (f"{level.sigma:.1f}" if level else "" for level in (self.seen.luma, self.seen.chroma))
        shared = f"{self.seen.luma.correlation[0]:.2f}" if self.seen.luma else ""
        size = f"{self.seen.width}x{self.seen.height}"
        kind = f"{self.seen.dtype} {'gray' if self.seen.gray else 'colour'}"
        noise = f"{self.seen.sigma:.1f}"
        return str(self.path), size, kind, noise, luma, chroma, shared, self.choice.model, f"{self.choice.strength:g}"

    def lines(self) -> list[str]:
        """For people."""
        seen = self.seen
        kind = "gray stored in colour" if seen.equal_channels else "gray" if seen.gray else "colour"
        pages = f", {self.pages} pages" if self.pages > 1 else ""
        made = ", ".join(filter(None, [self.camera, f"ISO {self.iso}" if self.iso else "", self.profile]))
        found = [
            f"{self.path}: {seen.width}x{seen.height}, {seen.dtype} {kind}, {self.format}{pages}",
            *([f"  {made}"] if made else []),
            f"  values {seen.low:g} to {seen.high:g}; black and white: {seen.values.words}",
        ]
        if seen.luma is None:
            found.append("  noise: none that can be measured")
        else:
            found += [f"  noise in brightness: {_words(seen.luma)}"]
        if seen.chroma is not None:
            found.append(f"  noise in colour: {seen.chroma.sigma:.1f} grey levels")
        found += [f"  {line}" for line in self._traces()]
        strength = "" if self.choice.strength == 1 else f" --strength {self.choice.strength:g}"
        return [*found, f"  proposed: -m {self.choice.model}{strength}: {self.choice.why}"]

    def _traces(self) -> Iterable[str]:
        """Of what was done to the image before."""
        seen = self.seen
        if self.quality is not None:
            yield f"JPEG of quality {self.quality}, steps at its blocks {seen.blockiness:.2f} times those inside"
        elif seen.blockiness > 1.15:
            yield f"blocks of 8x8 pixels show ({seen.blockiness:.2f}): it was a JPEG"
        if seen.smoothed:
            yield "its noise is smooth: processed in the camera, enlarged, or denoised before"
        if max(seen.rows, seen.columns) > 0.5:
            yield f"banding: {seen.rows:.1f} grey levels along rows, {seen.columns:.1f} along columns"
        if seen.hot > 20:
            yield f"hot or dead pixels: {seen.hot:.0f} per million"


def _words(level: NoiseLevel) -> str:
    tones = ", ".join(f"{deviation:.1f} at {tone:.0%}" for tone, deviation in level.by_tone.items())
    lags = ", ".join(f"{lag:.2f}" for lag in level.correlation)
    photons = f"; gain {level.gain:.3g}, in the dark {level.read:.1f}" if level.rises else ""
    return f"{level.sigma:.1f} grey levels ({tones}){photons}; correlation at 1, 2, 3 pixels {lags}"


def inspected(path: Path, choice: RangeChoice = "auto") -> Report:
    """The first page of a file. Raises InputError."""
    image = read(path)
    page, metadata = image.pages[0], image.metadata
    seen = inspect(page.pixels, range_of(choice, [page]))
    camera, iso = _camera(metadata.exif)
    quality = jpeg_quality(metadata.quantization) if image.format == "jpeg" else None
    profile = _profile(metadata.icc)
    return Report(path, image.format, len(image.pages), seen, choose(seen), camera, iso, profile, quality)


def _camera(block: bytes | None) -> tuple[str, int]:
    held = Image.Exif()
    with suppress(Exception):  # whatever a foreign block makes Pillow raise, the camera is merely not known
        held.load(b"Exif\0\0" + (block or b""))
        iso = held.get_ifd(EXIF_IFD).get(ISO, 0)
        return str(held.get(MODEL, "")).strip("\0 "), int(iso[0] if isinstance(iso, tuple) else iso)
    return "", 0


def _profile(icc: bytes | None) -> str:
    if not icc:
        return ""
    try:
        return str(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc)))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "a colour profile that cannot be read"


def summary(reports: Sequence[Report]) -> list[str]:
    """One line for each camera and ISO: how many files, the median of their noise, the models proposed."""
    groups: dict[tuple[str, int], list[Report]] = {}
    for report in reports:
        groups.setdefault((report.camera, report.iso), []).append(report)
    lines = []
    for (camera, iso), found in sorted(groups.items()):
        name = ", ".join(filter(None, [camera or "unknown camera", f"ISO {iso}" if iso else ""]))
        models = sorted({report.choice.model for report in found})
        noise = median(report.seen.sigma for report in found)
        lines.append(f"{name}: {len(found)} files, noise {noise:.1f}, {' or '.join(f'-m {model}' for model in models)}")
    return lines
