"""Micrographs through `med denoise`, with a tiny network: their noise, stacks, and what files say of themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from test_cli_denoise import Med, home, med, tiny
from test_vst import counts

import medcli
from medcli.cli import med as door
from medcli.images.micrograph import is_micrograph

__all__ = ["home", "med", "tiny"]  # fixtures


def micrograph(path: Path) -> Path:
    tifffile.imwrite(path, np.rint(counts(side=96)).astype(np.uint16))
    return path


class TestNoise:
    def test_the_measured_noise_is_a_note(self, med: Med, home: Path) -> None:
        ran = med("denoise", micrograph(home / "cells.tif"), "--vst", "-o", "out.tif")
        assert ran.code == 0
        assert "  note: noise: gain " in ran.err

    def test_given_values_imply_the_transform(self, med: Med, home: Path) -> None:
        micrograph(home / "cells.tif")
        ran = med("denoise", "cells.tif", "--gain", "4", "--offset", "100", "--read-noise", "2", "-o", "given.tif")
        assert "noise: gain 4 per electron, offset 100, read noise 2 (0.5 electrons)" in ran.err
        assert "noise:" not in med("denoise", "cells.tif", "-o", "plain.tif").err
        assert (tifffile.imread(home / "given.tif") != tifffile.imread(home / "plain.tif")).any()

    def test_another_noise_makes_a_result_again(self, med: Med, home: Path) -> None:
        (home / "cells").mkdir()
        micrograph(home / "cells/a.tif")
        assert "noise: gain 4 " in med("denoise", "cells", "--gain", "4", "-o", "out").err
        assert "up to date" in med("denoise", "cells", "--gain", "4", "-o", "out").err
        assert "up to date" not in med("denoise", "cells", "--gain", "5", "-o", "out").err

    def test_mistakes_are_named(self, med: Med, home: Path) -> None:
        micrograph(home / "cells.tif")
        ran = med("denoise", "cells.tif", "--gain", "0", "-o", "out.tif")
        assert ran.code == 1
        assert "gain of 0" in ran.err
        assert med("denoise", "cells.tif", "--gain", "much").code == 2

    def test_python_has_the_same_options(self, tiny: Path) -> None:
        denoiser = medcli.load(tiny, vst=True, gain=4.0)
        denoiser(counts(side=96))
        assert "gain 4 per electron" in denoiser.remark


class TestQuantities:
    def test_floats_are_neither_rounded_nor_clipped(self, med: Med, home: Path) -> None:
        micrograph(home / "cells.tif")
        assert med("denoise", "cells.tif", "-o", "same.tif", "--precision", "fp32").code == 0
        assert med("denoise", "cells.tif", "--depth", "float", "-o", "float.tif", "--precision", "fp32").code == 0
        same, exact = tifffile.imread(home / "same.tif"), tifffile.imread(home / "float.tif")
        assert (same.dtype, exact.dtype) == (np.uint16, np.float32)
        assert np.abs(exact - same).max() <= 0.51
        assert (exact % 1 != 0).mean() > 0.9

    def test_eight_bits_keep_their_range(self, med: Med, home: Path) -> None:
        tifffile.imwrite(home / "dim.tif", np.random.default_rng(0).integers(3, 30, (40, 40), dtype=np.uint8))
        ran = med("denoise", "dim.tif", "--depth", "float", "-o", "float.tif", "--precision", "fp32", "--json")
        assert json.loads(ran.out)["range"] == [0, 255]
        med("denoise", "dim.tif", "-o", "same.tif", "--precision", "fp32")
        assert np.abs(tifffile.imread(home / "float.tif") - tifffile.imread(home / "same.tif")).max() <= 0.51

    def test_a_format_without_floats_is_refused(self, med: Med, home: Path) -> None:
        ran = med("denoise", "in/0.png", "--depth", "float", "-o", "out.png")
        assert ran.code == 1
        assert "PNG holds no floating-point values" in ran.err

    def test_provenance_lies_beside_the_result(self, med: Med, home: Path) -> None:
        micrograph(home / "cells.tif")
        assert med("denoise", "cells.tif", "--gain", "4", "--provenance", "-o", "out.tif").code == 0
        found = json.loads((home / "out.tif.json").read_text())
        assert found["command"].startswith("med denoise cells.tif --gain 4")
        assert found["settings"]["gain"] == 4
        assert found["model"]["id"] == "tiny"
        assert found["output"]["sha256"] == hashlib.sha256((home / "out.tif").read_bytes()).hexdigest()
        assert any(note.startswith("noise: gain 4") for note in found["notes"])

    def test_provenance_needs_a_file(self, med: Med) -> None:
        ran = med("denoise", "in/0.png", "--provenance", "-o", "-")
        assert ran.code == 2
        assert "--provenance" in ran.err


AXES, SHAPE = "TZCYX", (10, 5, 2, 24, 32)
NAMES = ["DAPI", "GFP"]


def hyperstack(path: Path) -> None:
    luts = [np.stack([np.arange(256, dtype=np.uint8) * on for on in colour]) for colour in ((0, 0, 1), (0, 1, 0))]
    metadata = {"axes": AXES, "spacing": 0.3, "unit": "um", "finterval": 0.5, "mode": "composite", "LUTs": luts}
    metadata["Labels"] = [f"plane {number}" for number in range(100)]
    tifffile.imwrite(path, frames(), imagej=True, resolution=(1 / 0.13, 1 / 0.13), metadata=metadata)


def ome(path: Path) -> None:
    metadata = {"axes": AXES, "PhysicalSizeX": 0.13, "PhysicalSizeXUnit": "µm", "Channel": {"Name": NAMES}}
    tifffile.imwrite(path, frames(), metadata=metadata | {"TimeIncrement": 0.5})


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 900, SHAPE).astype(np.uint16)


class TestStacks:
    @pytest.mark.parametrize(("name", "make"), [("cells.tif", hyperstack), ("cells.ome.tif", ome)])
    def test_axes_and_metadata_come_back(self, med: Med, home: Path, name: str, make: Callable[[Path], None]) -> None:
        make(home / name)
        assert med("denoise", name, "-o", f"out.{name}", "--vst").code == 0
        with tifffile.TiffFile(home / name) as before, tifffile.TiffFile(home / f"out.{name}") as after:
            one, other = before.series[0], after.series[0]
            assert (other.axes, other.shape, other.dtype) == (AXES, SHAPE, np.uint16)
            assert one.axes == other.axes
            assert before.ome_metadata == after.ome_metadata
            assert after.pages[0].tags["XResolution"].value == before.pages[0].tags["XResolution"].value
            for key, value in (before.imagej_metadata or {}).items():
                assert np.array_equal(after.imagej_metadata[key], value)
            assert not np.array_equal(one.asarray(), other.asarray())

    def test_every_plane_is_restored_as_by_itself(self, med: Med, home: Path) -> None:
        hyperstack(home / "cells.tif")
        options = ("--range", "0:1000", "--precision", "fp32")
        med("denoise", "cells.tif", "-o", "all.tif", *options)
        tifffile.imwrite(home / "one.tif", frames()[3, 2, 1])
        med("denoise", "one.tif", "-o", "alone.tif", *options)
        assert np.array_equal(tifffile.imread(home / "all.tif")[3, 2, 1], tifffile.imread(home / "alone.tif"))


class TestChoiceOfTheModel:
    def run(self, *words: str) -> Result:
        return CliRunner().invoke(door, ["denoise", *words, "--precision", "fp32"])

    def test_gray_files_of_microscopes_get_their_model(self, home: Path) -> None:
        tifffile.imwrite(home / "cells.tif", np.rint(counts(side=64)).astype(np.uint16), imagej=True)
        result = self.run("cells.tif", "-o", "out.tif")
        assert result.exit_code == 0, result.output
        assert "denoised with micro; -m photo for the usual model" in result.output
        assert "out.tif: micro, " in result.output
        assert "out2.tif: photo, " in self.run("cells.tif", "-m", "photo", "-o", "out2.tif").output

    def test_other_files_get_the_usual_model(self, home: Path) -> None:
        gray = np.rint(counts(side=64)).astype(np.uint16)
        tifffile.imwrite(home / "scan.tif", gray)
        tifffile.imwrite(home / "colour.tif", np.stack([gray.astype(np.uint8)] * 3, 2), imagej=True)
        for name in ("scan.tif", "colour.tif"):
            assert "photo, " in self.run(name, "-o", f"out.{name}").output

    def test_files_are_told_apart_without_decoding(self, home: Path) -> None:
        (home / "broken.tif").write_bytes(b"II*\0" + b"\xff" * 40)
        tifffile.imwrite(home / "cells.ome.tif", np.zeros((3, 8, 8), np.uint16), metadata={"axes": "ZYX"})
        found = [is_micrograph(home / name) for name in ("cells.ome.tif", "broken.tif", "in/0.png", "missing.tif")]
        assert found == [True, False, False, False]
