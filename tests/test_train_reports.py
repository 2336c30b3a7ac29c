"""Claims about what is seen of a training run: panel, plain lines, curves, grid of images, TensorBoard."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from medcli.cli.progress import duration
from medcli.cli.train_display import (
    BARS,
    TrainDisplay,
    plain,
    sparkline,
)
from medcli.errors import OutputError
from medcli.images.contact_sheet import GAP, PAPER, TITLE, contact_sheet
from medcli.train.curves import COLOURS, draw, is_figure, is_term, read_log, running_mean
from medcli.train.tensorboard import TensorBoardWriter

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
COLOUR = re.compile(r"\x1b\[(\d+;)*3\d")


def line(step: int = 100, **more: float) -> dict[str, float]:
    """A line of the log after `step` of 20000 steps."""
    speed = {"steps_per_second": 7.1, "images_per_second": 113.6, "seconds_left": 731.0, "loader_wait": 0.03}
    return {"step": step, "progress": step / 20000, "log_mse": -2.31, "gradient": 3.5, "rate": 1e-3} | speed | more


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def rendered(display: TrainDisplay, width: int = 80, height: int = 24, encoding: str = "utf-8") -> list[str]:
    """The lines of the panel on a terminal of that size, without their styles."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, height=height, force_terminal=True, color_system=None)
    text = "".join(segment.text for segment in console.render(display) if not segment.control)
    return text.removesuffix("\n").split("\n")


def after(terms: int = 1, reports: int = 40) -> TrainDisplay:
    """The display after so many reports with so many loss terms."""
    display = TrainDisplay(20000, stream=io.StringIO())
    for number in range(1, reports + 1):
        values = {f"term_{term}": -2.31 - 0.01 * (reports - number) for term in range(terms)}
        common = {name: value for name, value in line(100 * number).items() if name != "log_mse"}
        display.report(common | values | {"psnr": 31.02, "psnr_input": 24.61})
    return display


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(math.inf, "?"), (-3, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (731, "12 min"), (3590, "1 h 00 min"),
         (11100, "3 h 05 min"), (2 * 86400 - 60, "2 d 00 h"), (187200, "2 d 04 h")],
    )  # fmt: skip
    def test_duration(self, seconds: float, words: str) -> None:
        assert duration(seconds) == words

    def test_names_of_the_log(self) -> None:
        names = [*line(), "psnr", "psnr_input", "val_ssim", "cycle", "invalid", "rate/critic", "gradient/critic"]
        assert [name for name in names if is_term(name)] == ["log_mse", "cycle", "invalid"]
        assert [name for name in names if is_figure(name)] == ["psnr", "val_ssim"]

    def test_a_line_in_plain_words(self) -> None:
        assert plain(line(psnr=31.0249, psnr_input=24.61), 20000) == (
            "step 100/20000  log_mse -2.310  psnr 31.02 (input 24.61)  7.1 steps/s  12 min left"
        )
        assert plain({"step": 5, "l1": math.nan, "val_ssim": 0.87}, 10) == "step 5/10  l1 nan  val_ssim 0.8700"


class TestTrends:
    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 70))
    def test_a_sparkline_has_a_bar_for_each_value_and_no_more_than_fit(self, values: list[float], width: int) -> None:
        bars = sparkline(values, width)
        assert len(bars) == min(width, len(values))
        assert set(bars) <= set(BARS)

    def test_a_sparkline_rises_with_its_values_whatever_an_outlier_does(self) -> None:
        assert sparkline(range(8), 8) == BARS
        assert sparkline([*range(40), 1e9], 41)[:40] == "".join(sorted(sparkline([*range(40), 1e9], 41)[:40]))
        assert len(set(sparkline([*range(40), 1e9], 41))) == len(BARS)


class TestPanel:
    @pytest.mark.parametrize(
        ("width", "beside", "bars"),
        [(24, False, False), (33, True, False), (44, True, False), (60, True, True), (200, True, True)],
    )
    def test_no_width_tears_a_line(self, width: int, beside: bool, bars: bool) -> None:
        lines = rendered(after(terms=3), width)
        assert max(map(len, lines)) <= width
        assert any("term_2" in text and "-2.310" in text for text in lines)
        assert any("psnr" in text and "31.02" in text for text in lines)
        assert ("-2.355" in "".join(lines)) == beside
        assert (BARS[-1] in "".join(lines)) == bars

    def test_many_terms_leave_room_for_what_matters(self) -> None:
        lines = rendered(after(terms=40), height=16)
        assert len(lines) < 16  # one is left for the cursor
        assert any("more" in text for text in lines)
        assert any("psnr" in text for text in lines)
        assert any("steps/s" in text for text in lines)

    def test_an_ascii_terminal_gets_ascii(self) -> None:
        assert "".join(rendered(after(), encoding="ascii")).isascii()

    def test_no_value_stops_a_run(self, terminal: Terminal) -> None:
        odd = dict.fromkeys(("psnr", "l1", "gradient", "progress", "seconds_left", "loader_wait", "rate"), math.nan)
        with TrainDisplay(20000, stream=terminal) as display:
            for sign in (1, -1):
                display.report(odd | {"step": 100, "val_lpips": sign * math.inf, "kl": sign * math.inf})
        assert "nan" in terminal.getvalue()

    def test_before_the_first_report(self) -> None:
        assert "first report is on its way" in "".join(rendered(TrainDisplay(500)))

    def test_last_and_best_stay_between_validations(self, terminal: Terminal) -> None:
        with TrainDisplay(20000, stream=terminal) as display:
            display.report(line(100, psnr=31.5, psnr_input=24.6, val_lpips=0.25))
            display.report(line(200, psnr=31.2, psnr_input=24.6, val_lpips=0.5))
            display.report(line(300, log_mse=-2.41))
        last = terminal.getvalue().rpartition("training")[2]
        seen = re.sub(r"\x1b\[[\d;]*m|[^\w\s.-]", "", last)
        assert re.search(r"log_mse\s+-2\.410\s+-2\.343", seen)
        assert re.search(r"psnr\s+31\.20\s+31\.50", seen)
        assert re.search(r"lpips\s+0\.5000\s+0\.2500", seen)
        assert re.search(r"noisy input\s+24\.60", seen)
        assert "left" not in seen  # the run is over

    def test_a_validation_leaves_progress_and_speed(self) -> None:
        display = TrainDisplay(20000, stream=io.StringIO())
        display.report(line(10000))
        display.report({"step": 10000, "psnr": 31.0})
        lines = rendered(display)
        assert any("50%" in text for text in lines)
        assert any("7.1 steps/s" in text for text in lines)

    def test_each_update_has_its_gradient(self, terminal: Terminal) -> None:
        with TrainDisplay(100, stream=terminal) as display:
            display.report(line(50) | {"gradient/critic": 2.25})
        assert "gradient/critic" in terminal.getvalue()

    def test_the_best_score_is_the_highest(self, terminal: Terminal) -> None:
        with TrainDisplay(20000, stream=terminal) as display:
            for score in (-0.75, -0.25, -0.5):
                display.report({"step": 100, "val_l1": -score, "val_score": score})
        seen = re.sub(r"\x1b\[[\d;]*m|[^\w\s.-]", "", terminal.getvalue().rpartition("training")[2])
        assert re.search(r"l1\s+0\.5000\s+0\.2500", seen)
        assert re.search(r"score\s+-0\.5000\s+-0\.2500", seen)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
    def test_the_cursor_comes_back(self, terminal: Terminal, error: type[BaseException]) -> None:
        with pytest.raises(error):
            _reported_until(error, TrainDisplay(20000, stream=terminal))
        shown = terminal.getvalue()
        assert shown.count(HIDE) == shown.count(SHOW) == 1
        assert shown.index(HIDE) < shown.index(SHOW)

    def test_messages_stand_above_the_panel_as_they_are(self, terminal: Terminal) -> None:
        with TrainDisplay(20000, stream=terminal) as display:
            display.report(line())
            display.say("left out: [bold]odd[/bold] name.png")
        assert "left out: [bold]odd[/bold] name.png\n" in terminal.getvalue()

    def test_no_color_is_honoured(self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        with TrainDisplay(20000, stream=terminal) as display:
            display.report(line(10000))
        assert COLOUR.search(terminal.getvalue())
        monkeypatch.setenv("NO_COLOR", "1")
        with TrainDisplay(20000, stream=(plain_terminal := Terminal())) as display:
            display.report(line(10000))
        assert "log_mse" in plain_terminal.getvalue()
        assert not COLOUR.search(plain_terminal.getvalue())

    def test_the_standard_streams_stay(self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker that is forked writes straight to the terminal, not through a panel that nobody draws there."""
        monkeypatch.setattr(sys, "stderr", terminal)
        streams = sys.stdout, sys.stderr
        with TrainDisplay(20000):
            assert (sys.stdout, sys.stderr) == streams


def _reported_until(error: type[BaseException], display: TrainDisplay) -> None:
    with display:
        display.say("50 images")
        display.report(line())
        raise error


class TestLines:
    @pytest.mark.parametrize("term", ["dumb", "xterm"])
    def test_elsewhere_one_plain_line_for_each_report(self, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", term)
        stream = Terminal() if term == "dumb" else io.StringIO()
        with TrainDisplay(20000, stream=stream) as display:
            display.say("50 images")
            display.report(line(100))
            display.report(line(200, psnr=31.0, psnr_input=24.61))
        lines = ["50 images", plain(line(100), 20000), plain(line(200, psnr=31.0, psnr_input=24.61), 20000)]
        assert stream.getvalue().splitlines() == lines

    def test_quiet_is_silent(self, terminal: Terminal) -> None:
        with pytest.raises(KeyboardInterrupt):
            _reported_until(KeyboardInterrupt, TrainDisplay(20000, quiet=True, stream=terminal))
        assert terminal.getvalue() == ""

    def test_nothing_heavy_at_import(self) -> None:
        heavy = {"torch", "cv2", "numpy", "matplotlib", "PIL"}
        code = "import sys, medcli.cli.train_display; print(*{name.partition('.')[0] for name in sys.modules})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) & heavy == set()


def logged(folder: Path, *lines: dict[str, Any], tail: str = "") -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + tail)
    return path


def drawn(folder: Path, *lines: dict[str, Any]) -> np.ndarray[Any, Any]:
    draw(logged(folder, *lines), folder / "curves.png")
    with Image.open(folder / "curves.png") as image:
        return np.asarray(image.convert("RGB"))


def has_colour(pixels: np.ndarray[Any, Any], colour: str) -> bool:
    return bool((pixels == list(bytes.fromhex(colour.removeprefix("#")))).all(-1).any())


class TestCurves:
    def test_a_broken_tail_and_strange_lines_are_left_out(self, tmp_path: Path) -> None:
        odd = [{"step": "first"}, {"note": "no step"}, {"step": 200, "l1": 2.0, "device": "cpu", "on": True}]
        log = logged(tmp_path, {"step": 100, "l1": 3.0}, *odd, tail='[1, 2]\n\n{"step": 300, "l')
        assert read_log(log) == [{"step": 100, "l1": 3.0}, {"step": 200, "l1": 2.0}]

    def test_a_resumed_run_replaces_what_it_repeats(self, tmp_path: Path) -> None:
        first = [{"step": step, "l1": 1.0} for step in (100, 200, 300, 400)]
        again = [{"step": step, "l1": 2.0} for step in (150, 300)]
        assert read_log(logged(tmp_path, *first, *again)) == [first[0], *again]

    def test_the_image(self, tmp_path: Path) -> None:
        lines = [line(step, cycle=1 / step, psnr=30 + step / 1e3, psnr_input=24.6) for step in range(100, 1000, 100)]
        pixels = drawn(tmp_path, *lines)
        assert pixels.shape == (800, 1200, 3)
        assert (pixels == 255).mean() > 0.8
        assert has_colour(pixels, COLOURS[0])
        assert has_colour(pixels, COLOURS[1])
        assert not has_colour(pixels, COLOURS[2])  # two terms, so no third line
        assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]

    def test_the_settings_of_the_reader_change_nothing(self, tmp_path: Path) -> None:
        plainly = drawn(tmp_path, line())
        with matplotlib.rc_context({"figure.facecolor": "black", "legend.labelcolor": "red"}):
            before = dict(matplotlib.rcParams)
            assert (drawn(tmp_path, line()) == plainly).all()
            assert dict(matplotlib.rcParams) == before

    def test_each_part_is_drawn_and_may_be_missing(self, tmp_path: Path) -> None:
        lines = [line(step, psnr=31.0, psnr_input=24.6) for step in (100, 200)]
        whole = drawn(tmp_path, *lines)
        for missing in ("psnr", "psnr_input", "rate", "log_mse"):
            fewer = [{name: value for name, value in each.items() if name != missing} for each in lines]
            assert (drawn(tmp_path, *fewer) != whole).any(), missing

    def test_each_update_has_its_learning_rate(self, tmp_path: Path) -> None:
        lines = [{"step": step, "l1": 1.0, "rate/critic": 1e-3, "rate/others": 1e-3 / step} for step in (100, 200, 300)]
        fewer = [{name: value for name, value in each.items() if name != "rate/others"} for each in lines]
        assert (drawn(tmp_path, *lines) != drawn(tmp_path, *fewer)).any()

    @pytest.mark.parametrize("values", [[math.nan], [math.inf, 1.0], [1e-9, 1.0, 1e9], [-5.0]])
    def test_no_value_is_too_odd(self, tmp_path: Path, values: list[float]) -> None:
        lines = [{"step": 10 * (i + 1), "l1": value, "psnr": value} for i, value in enumerate(values)]
        assert drawn(tmp_path, *lines).shape == (800, 1200, 3)

    @pytest.mark.parametrize("content", [None, "", '{"step": 1', '{"step": 100, "gradient": 2.0}\n'])
    def test_nothing_to_draw_makes_no_file(self, tmp_path: Path, content: str | None) -> None:
        if content is not None:
            (tmp_path / "log.jsonl").write_text(content)
        draw(tmp_path / "log.jsonl", tmp_path / "curves.png")
        assert not (tmp_path / "curves.png").exists()

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.floats(-1e3, 1e3), max_size=40), st.integers(0, 9))
    def test_a_running_mean_stays_between_its_values(self, values: list[float], context_radius: int) -> None:
        means = running_mean(values, context_radius)
        assert len(means) == len(values)
        assert means[:1] == values[:1]  # a steep fall keeps its height
        assert running_mean(values, 0) == values
        if values:
            assert min(values) - 1e-9 <= min(means) <= max(means) <= max(values) + 1e-9


def images(shape: tuple[int, ...], count: int = 2) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    draws = np.random.default_rng(sum(shape))
    return [draws.uniform(-0.1, 1.1, shape).astype(np.float32) for _ in range(count)]


class TestGrid:
    def test_every_pixel_is_where_it_belongs(self, tmp_path: Path) -> None:
        rows = [images((90, 120, 3)), images((70, 100, 3)), images((90, 120, 1))]
        contact_sheet(rows, ["noisy", "restored"], tmp_path / "grid.png", side=80)
        with Image.open(tmp_path / "grid.png") as image:
            sheet = np.asarray(image)
        assert sheet.shape == (TITLE + 80 + 70 + 80 + 3 * GAP, GAP + 2 * (80 + GAP), 3)
        for row, top in zip(rows, (TITLE, TITLE + 80 + GAP, TITLE + 150 + 2 * GAP), strict=True):
            for image, left in zip(row, (GAP, 80 + 2 * GAP), strict=True):
                off = [max(0, (length - 80) // 2) for length in image.shape[:2]]
                middle = (image[off[0] : off[0] + 80, off[1] : off[1] + 80].clip(0, 1) * 255).round()
                shown = sheet[top : top + middle.shape[0], left : left + 80]
                assert (shown == middle).all()
        assert (sheet[TITLE:, :GAP] == PAPER).all()
        assert (sheet[TITLE:, GAP + 80 : GAP + 80 + GAP] == PAPER).all()
        assert sheet[:TITLE, :80].min() < 100  # a title
        assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]

    def test_a_title_has_its_room(self, tmp_path: Path) -> None:
        contact_sheet([images((16, 16, 3))], ["a title longer than the image", "b"], tmp_path / "grid.png")
        with Image.open(tmp_path / "grid.png") as image:
            sheet = np.asarray(image)
        second = np.flatnonzero((sheet[TITLE + 8] != PAPER).any(-1))[16]
        assert (sheet[:TITLE, second - GAP : second] == PAPER).all()
        assert second > 150

    def test_titles_and_images_must_agree(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="zip"):
            contact_sheet([images((8, 8, 3))], ["noisy"], tmp_path / "grid.png")

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError):
            contact_sheet([images((8, 8, 3))], ["noisy", "restored"], tmp_path)


class Recorder:
    """Stands for TensorBoard's SummaryWriter."""

    made: list[Recorder]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.calls = folder, purge_step, list[tuple[Any, ...]]()
        self.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.calls.append((tag, value, step))

    def add_image(self, tag: str, pixels: np.ndarray[Any, Any], step: int, *, dataformats: str) -> None:
        self.calls.append((tag, pixels.shape, step, dataformats))

    def close(self) -> None:
        self.calls.append(("closed",))


class TestBoard:
    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
        """The writers that are made in place of TensorBoard's."""
        module = ModuleType("torch.utils.tensorboard")
        Recorder.made = []
        module.__dict__["SummaryWriter"] = Recorder
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
        return Recorder.made

    def test_every_figure_has_its_place(self, made: list[Recorder], tmp_path: Path) -> None:
        board = TensorBoardWriter.open(tmp_path)
        assert board is not None
        board.scalars({"step": 300, "l1": 0.5, "rate": 1e-3, "psnr": 31.0, "psnr_input": 24.0, "val_ssim": 0.9})
        contact_sheet([images((8, 12, 3))], ["noisy", "restored"], tmp_path / "grid.png")
        board.image(tmp_path / "grid.png", 300)
        board.close()
        (writer,) = made
        assert (writer.folder, writer.purge_step) == (str(tmp_path), 300)
        assert writer.calls[:5] == [
            ("loss/l1", 0.5, 300),
            ("run/rate", 1e-3, 300),
            ("validation/psnr", 31.0, 300),
            ("validation/psnr_input", 24.0, 300),
            ("validation/ssim", 0.9, 300),
        ]
        assert writer.calls[5][0] == "validation/images"
        assert writer.calls[5][1][2:] == (3,)
        assert writer.calls[5][2:] == (300, "HWC")
        assert writer.calls[6] == ("closed",)

    def test_nothing_said_nothing_written(self, made: list[Recorder], tmp_path: Path) -> None:
        board = TensorBoardWriter.open(tmp_path)
        assert board is not None
        board.close()
        assert made == []

    def test_absent(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        assert TensorBoardWriter.open(tmp_path) is None

    def test_a_resumed_run_replaces_what_it_repeats(self, tmp_path: Path) -> None:
        reader = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
        )
        for steps, value in (((100, 200, 300), 1.0), ((200, 300), 2.0)):
            board = TensorBoardWriter.open(tmp_path)
            assert board is not None
            for step in steps:
                board.scalars({"step": step, "l1": value})
            board.close()
        events = reader.EventAccumulator(str(tmp_path)).Reload().Scalars("loss/l1")
        assert [(event.step, event.value) for event in events] == [(100, 1.0), (200, 2.0), (300, 2.0)]
