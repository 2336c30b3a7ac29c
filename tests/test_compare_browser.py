"""The page of `med compare` in Chromium: keys, drag, zoom, touch, without JavaScript, at three widths."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcli.images.comparison import Region, Version, write_page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
COLOURS = {"noisy": (200, 30, 30), "half": (30, 160, 30), "full": (40, 40, 220), "clean": (220, 220, 40)}
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as playwright:
        path = path or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium is installed")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two regions; each version is one colour, so that a screenshot says which is shown where."""
    path = tmp_path_factory.mktemp("page") / "page.html"

    def region(name: str, side: int) -> Region:
        def levels(colour: tuple[int, int, int]) -> np.ndarray:
            return np.broadcast_to(np.array(colour, np.uint8), (side, side, 3))

        error = levels((128, 128, 128))
        return Region(
            name,
            [
                Version(key, levels(colour), {"noise": "1.5"} if key != "clean" else {},
                        f"med denoise {key}.png" if key in ("half", "full") else "",
                        None if key == "clean" else error, reference=key == "clean")
                for key, colour in COLOURS.items()
            ],
        )  # fmt: skip

    write_page(path, "Comparison", [region("first, at 1,2", 400), region("second", 64)])
    return path


@pytest.fixture
def tab(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, open; any message of the console or request to a network is an error."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    tab = context.new_page()
    problems: list[str] = []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or problems.append(request.url))
    tab.goto(page_file.as_uri())
    yield tab
    assert problems == []
    context.close()


def seen(tab: Any, across: float, down: float = 0.5) -> str:
    """Which version shows at a place of the stage, as shares of its width and height."""
    stage = tab.locator(".current .stage")
    image = np.asarray(Image.open(io.BytesIO(stage.screenshot())).convert("RGB")).astype(int)
    pixel = image[int(down * image.shape[0]), int(across * image.shape[1])]
    known = {**COLOURS, "error": (128, 128, 128), "paper": (85, 85, 85)}
    return min(known, key=lambda name: abs(pixel - known[name]).sum())


def centres(tab: Any) -> list[tuple[float, float]]:
    """Of the versions, as shares of the stage."""
    stage = tab.locator(".current .stage").bounding_box()
    boxes = [each.bounding_box() for each in tab.locator(".current figure").all()]
    return [
        (
            (b["x"] + b["width"] / 2 - stage["x"]) / stage["width"],
            (b["y"] + b["height"] / 2 - stage["y"]) / stage["height"],
        )
        for b in boxes
    ]


def zoom(tab: Any) -> int:
    return int(tab.locator("#zoom").text_content().split()[0])


def status(tab: Any) -> str:
    return str(tab.locator("#status").text_content())


def test_it_opens_split_between_noisy_and_the_last_result(tab: Any) -> None:
    assert (seen(tab, 0.4), seen(tab, 0.6)) == ("noisy", "full")


def test_keys_choose_versions_and_modes(tab: Any) -> None:
    press = tab.keyboard.press
    press("2")
    assert seen(tab, 0.6) == "half"
    press("Shift+4")
    assert (seen(tab, 0.4), status(tab)) == ("clean", "left: clean")
    press(" ")
    assert (seen(tab, 0.4), seen(tab, 0.6)) == ("half", "clean")
    press("g")
    assert [seen(tab, *place) for place in centres(tab)] == list(COLOURS)
    press("e")
    assert [seen(tab, *place) for place in centres(tab)] == ["error", "error", "error", "clean"]
    press("e")
    press("s")
    press("n")
    assert tab.locator(".current h2").text_content() == "second"
    press("p")
    assert tab.locator(".current h2").text_content() == "first, at 1,2"


def test_keys_and_slider_move_the_split(tab: Any) -> None:
    for _ in range(8):
        tab.keyboard.press("]")
    assert (seen(tab, 0.6), seen(tab, 0.69)) == ("noisy", "full")
    slider = tab.get_by_role("slider", name="Split position")
    slider.focus()
    for _ in range(30):
        tab.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "noisy 36 %, full 64 %"
    assert seen(tab, 0.45) == "full"


def test_the_line_can_be_dragged_and_the_picture_too(tab: Any) -> None:
    box = tab.locator(".current .stage").bounding_box()
    middle = box["y"] + box["height"] / 2
    tab.mouse.move(box["x"] + box["width"] / 2, middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.62, middle, steps=4)
    tab.mouse.up()
    assert (seen(tab, 0.6), seen(tab, 0.65)) == ("noisy", "full")
    tab.mouse.move(box["x"] + box["width"] * 0.4, middle)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.4 + 150, middle, steps=4)
    tab.mouse.up()
    assert seen(tab, 0.35) == "paper"  # its left border came along
    tab.keyboard.press("0")
    assert seen(tab, 0.4) == "noisy"


def test_zoom_by_keys_wheel_and_buttons(tab: Any) -> None:
    first = zoom(tab)
    tab.keyboard.press("+")
    assert zoom(tab) == pytest.approx(1.25 * first, abs=2)
    tab.get_by_role("button", name="Fit").click()
    assert zoom(tab) == first
    tab.locator(".current .stage").hover()
    tab.mouse.wheel(0, -600)
    tab.wait_for_function("document.getElementById('zoom').textContent !== '100 %'")
    assert zoom(tab) == pytest.approx(4 * first, rel=0.02)
    transforms = tab.locator(".current img.plain").evaluate_all("all => all.map(each => each.style.transform)")
    assert len(set(transforms)) == 1
    tab.get_by_role("button", name="1:1").click()
    assert zoom(tab) == 100


def test_blinking_alternates_and_space_stops_it(tab: Any) -> None:
    tab.keyboard.press("b")
    front = "document.querySelector('.current figure.shown').dataset.name"
    tab.wait_for_function(f"{front} === 'noisy'")
    tab.wait_for_function(f"{front} === 'full'")
    tab.keyboard.press(" ")
    assert status(tab) in COLOURS
    assert tab.locator(".current figure.shown").count() == 1


def test_who_wants_no_motion_blinks_by_hand(browser: Any, page_file: Path) -> None:
    context = browser.new_context(reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(page_file.as_uri())
    tab.keyboard.press("b")
    tab.wait_for_timeout(1000)
    assert status(tab).startswith("Blink between")
    tab.keyboard.press(" ")
    assert status(tab) == "noisy"
    context.close()


def test_the_command_is_copied(tab: Any) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.keyboard.press("c")
    tab.wait_for_function("document.getElementById('status').textContent === 'Copied: med denoise full.png'")
    tab.get_by_role("button", name="Copy the command of half").click()
    tab.wait_for_function("document.getElementById('status').textContent === 'Copied: med denoise half.png'")
    assert tab.evaluate("navigator.clipboard.readText()") == "med denoise half.png"


def test_everything_is_reached_and_named_without_a_mouse(tab: Any) -> None:
    reached = []
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate("(e => e.id || e.getAttribute('aria-label') || e.textContent)(document.activeElement)")
        )
    wanted = {"scene", "left", "right", "Split", "Side by side", "Blink", "in", "out", "fit", "one", "errors", "split"}
    assert wanted | {"first, at 1,2: versions", "Copy the command of full"} <= set(reached)
    unnamed = (
        "all => all.filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels.length)).length"
    )
    assert tab.locator("button, select, input").evaluate_all(unnamed) == 0
    assert all(tab.locator("img").evaluate_all("all => all.map(each => each.alt)"))
    assert tab.get_by_role("table").count() == 1  # of the region that is shown


@pytest.mark.parametrize("width", [340, 800, 1600])
def test_it_fits_screens_of_any_width(browser: Any, page_file: Path, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 700}, has_touch=width == 340)
    tab = context.new_page()
    tab.goto(page_file.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert (seen(tab, 0.45), seen(tab, 0.55)) == ("noisy", "full")
    context.close()


def test_without_javascript_all_is_there(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page_file.as_uri())
    assert tab.locator("img.plain:visible").count() == 2 * len(COLOURS)
    assert tab.locator("table:visible").count() == 2
    assert tab.locator("button:visible").count() == 0
    context.close()
