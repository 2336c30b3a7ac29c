"""Micrographs through `med denoise`, with a tiny network: their noise, stacks, and what files say of themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from test_cli_denoise import Med, home, med, tiny
from test_vst import counts

import medcli

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
