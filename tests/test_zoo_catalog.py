"""Claims about the catalogue: what a row may hold, that it tells the truth, and how a name becomes a file."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_UNET
from torch.utils.flop_counter import FlopCounterMode

import medcli
from medcli.errors import ModelError
from medcli.noise.notation import parse
from medcli.registry import ARCHITECTURES, STRATEGIES
from medcli.zoo import catalog, test_vectors, weights
from medcli.zoo.checkpoint_formats import NAMINGS
from medcli.zoo.fetch import HubFile

TEXT = catalog.catalog_path().read_text(encoding="utf-8")
KNOWN = catalog.entries()
BUNDLED = [entry for entry in KNOWN.values() if entry.hub is None]
DENOISERS = [entry for entry in BUNDLED if entry.domain != "noise"]
HUB = [entry for entry in KNOWN.values() if entry.hub is not None]
CARD = weights.Card(id="tiny", architecture="unet", config=TINY_UNET, licence="MIT", training_data=["waves"])


def read(text: str, folder: Path) -> dict[str, catalog.Entry]:
    path = folder / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return catalog.entries(path)


def message_lines(text: str, folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read(text, folder)
    assert caught.value.hint, "an error says what to do"
    return str(caught.value)


class TestShippedFile:
    """In more depth than it is checked at every start."""

    rows = yaml.safe_load(TEXT)["models"]

    def test_no_key_is_missing_or_empty(self) -> None:
        optional = {"naming", "noises", "gray", "tolerance", "file"}
        for row in self.rows:
            assert catalog.KEYS - optional <= row.keys()
            empty = {key for key, value in row.items() if value in ("", [], {})}
            assert empty <= {"recipe", "citation", "scores", "noises"}
            assert row.keys() >= ({"tolerance", "file"} if row["source"] == "bundled" else set())

    def test_every_name_is_known(self) -> None:
        for entry in KNOWN.values():
            assert entry.domain in catalog.DOMAINS
            assert entry.architecture in ARCHITECTURES
            assert entry.strategy.partition(":")[0] in STRATEGIES
            assert entry.naming in {"", *NAMINGS}
            assert all(parse(noise) for noise in entry.noises)
            assert entry.value_range[0] < entry.value_range[1]
            assert entry.hub is not None or re.fullmatch(r"[\w-][\w.-]*\.safetensors", entry.file)

    def test_no_key_is_given_twice(self) -> None:
        waiting = [yaml.compose(TEXT)]
        while waiting:
            node = waiting.pop()
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            assert len({key.value for key, _ in pairs}) == len(pairs)
            waiting += [value for _, value in pairs] if pairs else node.value if node.id == "sequence" else []


class TestReading:
    def test_a_row_survives_its_way_through_an_entry(self, tmp_path: Path) -> None:
        rows = [catalog.as_row(entry) for entry in KNOWN.values()]
        assert rows == yaml.safe_load(TEXT)["models"]
        rows[0] |= {"noises": ["drop:0.5", "rescale:2+gaussian:1e+1"]}
        again = read(yaml.safe_dump({"models": rows}), tmp_path)
        assert again == KNOWN | {"photo": replace(KNOWN["photo"], noises=rows[0]["noises"])}
        assert again["photo"].card.noises == rows[0]["noises"]

    def test_a_file_is_read_again_only_after_a_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = read(TEXT, tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(yaml, "load", lambda *_: pytest.fail("read again"))
            assert catalog.entries(tmp_path / "models.yaml") is first
        assert next(iter(read(TEXT.replace("- id: photo", "- id: photo9"), tmp_path))) == "photo9"

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("  title: Blind denoising of", "  titel: Blind denoising of", "Did you mean 'title'"),
            ("  half_safe: true", "  half_safe: 1", "Expected `bool`, got `int` - at `$.half_safe`"),
            ("  channels: 3\n", "  channels: three\n", "Expected `int`, got `str` - at `$.channels`"),
            ("  licence: CC-BY-SA-4.0", "  licence: 4.0", "Expected `str`, got `float` - at `$.licence`"),
            ("  licence: CC-BY-SA-4.0", "  licence: [MIT]", "Expected `str`, got `array` - at `$.licence`"),
            ("  licence: CC-BY-SA-4.0", "  licence: !!python/name:os.system x", "could not determine a constructor"),
            (
                "  value_range: [0, 1]",
                "  noises: drop:0.5\n  value_range: [0, 1]",
                "`array`, got `str` - at `$.noises`",
            ),
            ("  value_range: [0, 1]", "  value_range: [0]", "at `$.value_range`"),
            ("  sha256: 507ca3", "  sha256: 507cag", "at `$.sha256`"),
            ("  bytes: 7249976", "  bytes: some", "at `$.bytes`"),
            ("  source: bundled", "  source: bundle", "at `$.source`"),
            ("  source: bundled\n", "", "missing required field `source`"),
            ("    kind: model", "    kind: modell", "at `$.source.kind`"),
            ("    revision: 9526c38b", "    revision: main #", "at `$.source.revision`"),
            ("    file: NAFNet-SIDD-width32.pth", "    file: ../NAFNet.pth", "at `$.source.file`"),
            ("    file: NAFNet-SIDD-width32.pth", "    file: a/../NAFNet.pth", "at `$.source.file`"),
            ("    file: NAFNet-SIDD-width32.pth", "    file: a//NAFNet.pth", "at `$.source.file`"),
            ("    file: NAFNet-SIDD-width32.pth", "    file: /etc/passwd", "at `$.source.file`"),
            ("    repo: mikestealth/", "    repo: ../", "at `$.source.repo`"),
            ("    repo: mikestealth/", "    repo: a/mikestealth/", "at `$.source.repo`"),
            ("- id: gaussian\n", "- id: photo\n", "the same id"),
            ("- id: gaussian\n", "- id: Gaussian\n", "model 'Gaussian': Expected `str` matching"),
            ("- id: gaussian\n", "- id: ../x\n", "at `$.id`"),
            ("models:\n", "models:\n- 3\n", "Expected `object`, got `int`"),
            ("models:\n", "colours: []\nmodels:\n", "colours"),
            ("  source: bundled", "  source: &a bundled\n  citation: *a", "aliases"),
            ("  source: bundled", "  source: ]", ", column 11"),
            ("  config: {", "  config: " + "{a: " * 2000 + "{", "nesting"),
        ],
    )
    def test_the_error_names_file_and_place(self, old: str, new: str, message: str, tmp_path: Path) -> None:
        assert old in TEXT
        reported = message_lines(TEXT.replace(old, new, 1), tmp_path)
        assert reported.startswith(f"{tmp_path / 'models.yaml'}")
        assert message in reported

    @pytest.mark.parametrize("text", ["", "models", "models: 3", "models: [3]", "{", "colours: []", "[" * 5000, "\x00"])
    def test_what_is_no_catalogue_is_an_error(self, text: str, tmp_path: Path) -> None:
        message_lines(text, tmp_path)

    def test_files_that_cannot_be_read_are_errors(self, tmp_path: Path) -> None:
        (tmp_path / "models.yaml").write_bytes(b"models: \xff\xfe")
        for path in (tmp_path / "models.yaml", tmp_path, tmp_path / "absent.yaml"):
            with pytest.raises(ModelError):
                catalog.entries(path)

    def test_a_hub_row_may_leave_its_size_unstated(self) -> None:
        entry = KNOWN["nafnet-sidd-32"]
        assert isinstance(entry.hub, HubFile)
        assert (entry.bytes, entry.hub.bytes, entry.file, entry.tolerance) == (None, None, entry.hub.file, None)


@pytest.mark.parametrize("entry", KNOWN.values(), ids=KNOWN)
class TestRowsTellTheTruth:
    def test_about_the_network(self, entry: catalog.Entry) -> None:
        with torch.device("meta"):
            network: Any = weights.build(entry.card).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.empty(1, entry.channels, 256, 256))
        assert entry.parameters == sum(parameter.numel() for parameter in network.parameters())
        assert entry.macs_per_pixel == round(counter.get_total_flops() / 2 / 256**2)
        assert (entry.channels, entry.multiple) == (network.channels, network.multiple)
        assert entry.receptive_field == network.receptive_field
        assert entry.config == network.config

    def test_in_the_words_of_the_weights(self, entry: catalog.Entry) -> None:
        if entry.hub is not None:
            pytest.skip("its weights are not ours and not here")
        card = weights.read_card(catalog.verify(entry))
        learned = card.gray if card.gray is not None else entry.gray  # older files do not say
        read = replace(card, steps=0, version="", gray=learned, domain=entry.domain)
        assert replace(read, title=entry.title) == entry.card  # the catalogue's title may be a newer one


class TestVectors:
    @pytest.mark.parametrize("entry", BUNDLED, ids=lambda entry: entry.id)
    def test_every_bundled_model_agrees_with_its_vector(self, entry: catalog.Entry) -> None:
        network, _ = weights.load_network(entry.path)
        assert entry.tolerance is not None
        assert test_vectors.check(entry.vector, network) <= entry.tolerance
        assert entry.vector.stat().st_size < 20_000

    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5)], ids=str)
    @pytest.mark.parametrize("entry", DENOISERS, ids=lambda entry: entry.id)
    def test_a_tiny_image_of_one_colour_stays_about_as_it_is(self, entry: catalog.Entry, size: tuple[int, int]) -> None:
        """One of masks may hide all of it, in which case there is nothing to guess it from."""
        pixels = np.full(size if entry.channels == 1 else (*size, 3), 200, np.uint8)
        restored = medcli.denoise(pixels, entry.id, device="cpu", precision="fp32")
        assert np.abs(restored.astype(int) - pixels).max() < 20

    def test_other_weights_do_not_agree(self) -> None:
        first, second = BUNDLED[:2]
        network, _ = weights.load_network(first.path)
        assert test_vectors.check(second.vector, network) > 100 * second.tolerance
        with torch.no_grad():
            network.tail.weight[0, 0, 0, 0] += 0.01  # one number of 3.6 million
        assert test_vectors.check(first.vector, network) > first.tolerance

    def test_there_is_noise_and_the_model_removes_some(self) -> None:
        network, card = weights.load_network(BUNDLED[0].path)
        made = test_vectors.make(network, card)
        assert made["noisy"].shape == made["restored"].shape == (1, 3, 32, 32)
        assert (made["restored"] - made["noisy"]).abs().mean() * 255 > 10

    def test_the_same_network_gives_the_same_bytes(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        network = weights.build(CARD)
        for name in "ab":
            test_vectors.write(tmp_path / name, network, CARD)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert test_vectors.check(tmp_path / "a", network) == 0

    @pytest.mark.parametrize("channels", [1, 4])
    def test_any_number_of_channels_and_any_multiple(self, channels: int) -> None:
        card = replace(CARD, channels=channels, config=TINY_UNET | {"channels": channels, "unshuffle": 20})
        assert test_vectors.make(weights.build(card), card)["noisy"].shape == (1, channels, 40, 40)

    def test_what_is_no_vector_of_this_network_is_an_error(self, tmp_path: Path) -> None:
        network = weights.build(CARD)
        (tmp_path / "text").write_text("hello")
        weights.save(tmp_path / "weights", network, CARD)
        gray = replace(CARD, channels=1, config=TINY_UNET | {"channels": 1})
        test_vectors.write(tmp_path / "gray", weights.build(gray), gray)
        for name in ("absent", "text", "weights", "gray", ""):
            with pytest.raises(ModelError):
                test_vectors.check(tmp_path / name, network)


def test_the_catalogue_needs_neither_torch_nor_the_hub() -> None:
    code = (
        "import sys; from medcli.zoo import catalog; [catalog.where(e) for e in catalog.entries().values()]\n"
        "assert not {'torch', 'numpy', 'httpx', 'httpx2', 'requests', 'rich.console'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
