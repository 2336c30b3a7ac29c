"""`med denoise` on files of many formats: what is copied, counted, refused, and left unsaid."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from sample_images import by_pillow, noise
from test_cli_denoise import environment, save_tiny

from medcli.cli import main
from medcli.images import read

RGB = Image.fromarray(noise("uint8", (13, 17, 3)))
Med = Callable[..., tuple[int, bytes, list[str]]]


@pytest.fixture
def med(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, recwarn: pytest.WarningsRecorder
) -> Med:
    """Runs `med denoise` in this process and an empty folder: exit code, standard output, lines of standard error."""
    capture = request.getfixturevalue("capsysbinary")
    weights = save_tiny(tmp_path / "tiny.safetensors")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*words: str, stdin: bytes = b"") -> tuple[int, bytes, list[str]]:
        monkeypatch.setattr(sys, "argv", ["med", "denoise", *words, "--model", str(weights), "--device", "cpu"])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capture.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err.decode().splitlines()

    return call


@pytest.mark.parametrize("name", ["a.jpg", "a.jfif", "a.jpe", "a.webp", "a.png"])
def test_strength_0_copies_the_file(med: Med, name: str) -> None:
    kind = {"webp": "webp", "png": "png"}.get(name[2:], "jpeg")
    data = by_pillow(RGB.convert("P") if kind == "png" else RGB, kind) + b"behind"
    Path(name).write_bytes(data)
    code, _, lines = med(name, "--strength", "0")
    assert (code, lines[1:]) == (0, ["  note: At strength 0 nothing changes: the file was copied."])
    assert Path(name.replace(".", ".denoised.")).read_bytes() == data
    assert med("-", "--strength", "0", stdin=data)[1] == data
    assert med(name, "--strength", "0", "--quality", "50", "-o", "other.png")[0] == 0
    assert read(Path("other.png")).pages[0].pixels.tolist() == read(Path(name)).pages[0].pixels.tolist()
    assert med("-", "--strength", "0.5", stdin=data)[1] != data


def test_a_jpeg_of_any_name_is_a_image_of_the_folder(med: Med) -> None:
    Path("in").mkdir()
    for name in ("a.JPG", "b.jfif", "c.jpe", "d.jpeg"):
        (Path("in") / name).write_bytes(by_pillow(RGB, "jpeg"))
    code, _, lines = med("in")
    assert code == 0
    assert lines[-1].startswith("4 done in")
    assert sorted(path.name for path in Path("in.denoised").glob("?.*")) == ["a.JPG", "b.jfif", "c.jpe", "d.jpeg"]


def test_what_is_skipped_in_a_folder_is_counted(med: Med) -> None:
    for name in ("in/a.psd", "in/b.PSD", "in/sub/c.xcf", "in/.hidden", "in/a.denoised/d.svg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    code, _, lines = med("in")
    assert code == 1
    assert lines[0] == "error: The folder in holds no image to denoise (2 skipped: .psd)."
    Path("in/one.png").write_bytes(by_pillow(RGB, "png"))
    code, _, lines = med("in")
    assert code == 0
    assert lines[-1].startswith("1 done in")
    assert lines[-1].endswith("; 2 skipped: .psd")
    assert med("in", "-r")[2][-1].endswith("; 3 skipped: .psd (2), .xcf (1)")
    assert med("in/one.png")[2][-1].startswith("in/one.png")


def test_another_format_is_an_error_with_a_hint(med: Med) -> None:
    Path("a.djvu").write_bytes(b"AT&TFORM" + bytes(99))
    code, _, lines = med("a.djvu", "-o", "a.png")
    assert code == 1
    assert lines[0] == "error: a.djvu cannot be read: DjVu is not read by medcli."
    assert "ddjvu" in lines[1]


def test_libraries_say_nothing(tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "tiny.safetensors")
    (tmp_path / "in").mkdir()
    good = {"webp": by_pillow(RGB, "webp"), "jpg": by_pillow(RGB, "jpeg"), "png": by_pillow(RGB, "png")}
    good |= {"tif": by_pillow(RGB, "tiff", compression="tiff_lzw"), "bmp": by_pillow(RGB, "bmp")}
    for name, data in good.items():
        for at in (14, 30, len(data) // 2, len(data) - 30):
            (tmp_path / "in" / f"{at}.{name}").write_bytes(data[:at] + b"\xff\x01\x80" + data[at + 3 :])
    animated = by_pillow(RGB, "webp", save_all=True, append_images=[RGB.rotate(180)])
    (tmp_path / "in/odd.webp").write_bytes(animated.replace(b"ANMF", b"ODD "))  # OpenCV prints about it
    command = [sys.executable, "-m", "medcli", "denoise", "in", "--model", str(weights), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    foreign = [line for line in done.stderr.splitlines() if not line.startswith(("error: ", "  ", "in/"))]
    assert [line for line in foreign if " failed" not in line] == []
    for word in ("0x", "object at", "Error(", "Errno", "Traceback", "numpy", "PIL", "cv2"):
        assert word not in done.stderr
