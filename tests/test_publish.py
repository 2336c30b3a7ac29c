"""Claims about model cards and about what reaches the Hub."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from conftest import TINY_UNET
from fakehub import TOKEN, FakeHub, _Handler, _Refusal
from huggingface_hub import HfApi, ModelCard, constants

from medcli.cli.models.publish import command
from medcli.errors import ModelError, OutputError
from medcli.zoo import catalog, modelcard, publish, test_vectors, weights
from medcli.zoo.description import Description, describe
from medcli.zoo.modelcard import Origin

REPO = "tester/tiny"
CARD = weights.Card(
    id="tiny",
    architecture="unet",
    config=TINY_UNET,
    title="Waves: and stripes",
    noise="Gaussian sigma 5 to 50",
    licence="CC-BY-NC-4.0",
    training_data=["waves"],
    method="supervised",
    recipe="tiny",
    steps=1200,
)
ABOUT = Description(
    id="tiny",
    architecture="dncnn",
    config={},
    scores={"Set12, 8 bit, PSNR dB": 30.5, "Set12, 8 bit, SSIM": 0.91, "Set12, float, PSNR dB": 30.6},
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a training run."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    network = weights.build(CARD)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    weights.save(folder / "tiny.safetensors", network, CARD)
    (folder / "recipe.yaml").write_text("id: tiny\n")
    (folder / "log.jsonl").write_text('{"step": 1200}\n')
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub that knows our token."""
    with FakeHub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def publish_it(*arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class TestPage:
    @pytest.mark.parametrize("about", [ABOUT, describe(CARD), Description("x", "unet", {})], ids=lambda a: a.id)
    def test_the_hub_reads_what_was_meant(self, about: Description) -> None:
        data = ModelCard(modelcard.render(about), ignore_metadata_errors=False).data
        assert (data.library_name, data.pipeline_tag) == ("medcli", "image-to-image")
        assert {"denoising", "image-restoration", about.architecture} <= set(data.tags)
        results = {(r.dataset_name, r.dataset_config, r.metric_type): r.metric_value for r in data.eval_results or ()}
        expected = {tuple(key.rsplit(", ", 2)): value for key, value in about.scores.items()}
        named = {"psnr": "PSNR dB", "ssim": "SSIM"}
        assert {(name, how, named[metric]): value for (name, how, metric), value in results.items()} == expected

    def test_every_model_of_the_catalogue_has_a_page(self) -> None:
        for entry in catalog.entries().values():
            page = modelcard.render(entry)
            data = ModelCard(page, ignore_metadata_errors=False).data
            assert data.license == modelcard.hub_licence(entry.licence)[0]
            assert {f"{r.metric_value:g}" for r in data.eval_results or ()} == {f"{s:g}" for s in entry.scores.values()}
            words = {f"--model {entry.id}", entry.licence, entry.data_licence, entry.noise, f"{entry.parameters:,}"}
            assert [word for word in words | set(entry.scores) | set(entry.training_data) if word not in page] == []

    @pytest.mark.parametrize(
        ("spdx", "hub"),
        [
            ("MIT", ("mit", None)),
            ("CC-BY-SA-4.0", ("cc-by-sa-4.0", None)),
            ("GPL-3.0-or-later", ("gpl-3.0", None)),
            ("ODbL-1.0", ("odbl", None)),
            ("MPL-2.0", ("mpl-2.0", None)),
            ("Academic Public License", ("other", "academic-public-license")),
            ("", ("other", "not-stated")),
        ],
    )
    def test_licences_in_the_words_of_the_hub(self, spdx: str, hub: tuple[str, str | None]) -> None:
        assert modelcard.hub_licence(spdx) == hub
        data = ModelCard(modelcard.render(replace(ABOUT, licence=spdx))).data
        assert (data.license, data.license_name) == hub

    def test_data_sets_of_the_hub_stay_links(self) -> None:
        about = replace(ABOUT, training_data=["owner/Waves_2", "My images"])
        data = ModelCard(modelcard.render(about)).data
        assert data.datasets == ["owner/Waves_2", "my-images"]

    def test_limits_follow_from_the_facts(self) -> None:
        plain, bound = (
            modelcard.render(about) for about in (ABOUT, replace(ABOUT, licence="CC-BY-NC-4.0", channels=1))
        )
        assert "commercial" not in plain
        assert "Not for commercial use: the weights are under CC-BY-NC-4.0" in bound
        assert "gray images only" in bound
        assert "half precision" in modelcard.render(replace(ABOUT, half_safe=False))

    def test_what_is_not_known_is_left_out_or_named(self) -> None:
        page = modelcard.render(Description("x", "unet", {}))
        assert page.count("not stated") == 3  # images, their licence, that of the weights
        assert "No score was measured." in page
        for absent in ("What it is for", "How it was made", "Citation", "None"):
            assert absent not in page

    def test_the_same_facts_give_the_same_page(self) -> None:
        assert modelcard.render(ABOUT) == modelcard.render(replace(ABOUT))

    def test_a_command_is_shown_without_the_folders_of_this_machine(self) -> None:
        shown = modelcard.portable(["med", "train", "--data", "/home/me/my images", "-o", "~/secret/run", "--lr=0.1"])
        assert shown == "med train --data 'my images' -o run --lr=0.1"

    def test_costs_are_those_of_the_network(self) -> None:
        config = {"channels": 1, "width": 8, "depth": 5, "batch_norm": False}
        about, network = describe(weights.Card(id="x", architecture="dncnn", config=config)), weights.build(CARD)
        assert about.parameters == sum(9 * a * b + b for a, b in ((1, 8), (8, 8), (8, 8), (8, 8), (8, 1)))
        assert (about.macs_per_pixel, about.multiple, about.receptive_field) == (9 * 208, 1, 5)
        about = describe(CARD)
        assert (about.multiple, about.receptive_field) == (network.multiple, network.receptive_field)

    def test_a_noise_model_is_recognised_by_its_network(self) -> None:
        """Weight files of earlier versions do not say that they generate noise."""
        about = describe(replace(weights.read_card(catalog.find("ludvae-camera").path), domain=""))
        assert about.domain == "noise"
        assert "med synth-pairs --from clean/ --to noisy/ --model" in modelcard.render(about)
        assert "med denoise photo.png --model tiny.safetensors" in modelcard.render(describe(CARD))


class TestFolder:
    def test_it_holds_what_others_need(self, run: Path, tmp_path: Path) -> None:
        ready = publish.prepare(run, tmp_path / "out", REPO)
        assert set(ready.files) == {path.name for path in (tmp_path / "out").iterdir()} == set(publish.NAMES)
        assert json.loads((ready.path / "config.json").read_text()) == CARD.as_dict()
        weight_file = ready.path / "model.safetensors"
        assert weight_file.read_bytes() == (run / "tiny.safetensors").read_bytes()
        assert (ready.path / "recipe.yaml").read_text() == "id: tiny\n"
        assert test_vectors.check(ready.path / "vector.safetensors", weights.load_network(weight_file)[0]) < 0.01
        for words in (f"hf download {REPO} model.safetensors", "--model model.safetensors", "1,200", "waves"):
            assert words in ready.page

    def test_the_same_run_gives_the_same_bytes(self, run: Path, tmp_path: Path) -> None:
        folders = [publish.prepare(run, tmp_path / name, REPO) for name in ("a", "b", "a")]
        contents = [{name: (ready.path / name).read_bytes() for name in ready.files} for ready in folders]
        assert contents[0] == contents[1] == contents[2]

    def test_a_weight_file_alone_will_do(self, run: Path, tmp_path: Path) -> None:
        publish.prepare(run, tmp_path / "out")
        ready = publish.prepare(run / "tiny.safetensors", tmp_path / "out")
        assert set(ready.files) == set(publish.NAMES) - {"recipe.yaml"}  # that of the run before is gone

    def test_the_page_in_the_run_is_taken_and_tells_the_new_address(self, run: Path, tmp_path: Path) -> None:
        mine = modelcard.render(describe(CARD), Origin("run/")) + "\n## Thanks\n\nto my cat\n"
        (run / "README.md").write_text(mine)
        page = publish.prepare(run, tmp_path / "out", REPO).page
        assert "to my cat" in page
        assert f"hf download {REPO}" in page
        assert "run/" not in page
        assert [line for line in page.splitlines() if line.startswith("#")] == [
            line for line in mine.splitlines() if line.startswith("#")
        ]
        (run / "README.md").write_text("---\nlicense: mit\n---\nno headings of ours\n")
        assert publish.prepare(run, tmp_path / "out", REPO).page.endswith("no headings of ours\n")

    @pytest.mark.parametrize(
        ("page", "words"),
        [
            ("---\nlicense: [\n---\n", "cannot read"),
            ("---\njust words\n---\n", "cannot read"),
            ("---\nlibrary_name: medcli\n---\n", "names no licence"),
            ("no front matter", "names no licence"),
            (b"---\nlicense: \xff\n---\n", "cannot read"),
        ],
    )
    def test_a_page_that_the_hub_cannot_use_is_an_error(
        self, page: str | bytes, words: str, run: Path, tmp_path: Path
    ) -> None:
        (run / "README.md").write_bytes(page if isinstance(page, bytes) else page.encode())
        with pytest.raises(ModelError, match=words):
            publish.prepare(run, tmp_path / "out")

    def test_folders_of_others_are_left_alone(self, run: Path, tmp_path: Path) -> None:
        before = sorted(run.iterdir())
        with pytest.raises(OutputError, match="contains other files"):
            publish.prepare(run, run)
        assert sorted(run.iterdir()) == before
        with pytest.raises(OutputError, match="cannot be written"):
            publish.prepare(run, run / "log.jsonl" / "out")

    def test_damaged_weights_are_not_published(self, run: Path, tmp_path: Path) -> None:
        path = run / "tiny.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ModelError, match="corrupt"):
            publish.prepare(run, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestUpload:
    def test_what_was_published_is_a_model_of_the_catalogue(self, run: Path, hub: FakeHub, tmp_path: Path) -> None:
        result = publish_it(run, "--repo", REPO, "--folder", tmp_path / "out")
        repo = hub.repos[REPO]
        assert repo.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        (tmp_path / "models.yaml").write_text("models:\n" + result.stdout)
        entry = catalog.entries(tmp_path / "models.yaml")["tiny"]
        assert (entry.hub.repo, entry.hub.file, entry.hub.revision) == (REPO, "model.safetensors", repo.head)
        published = repo.history[entry.hub.revision]["model.safetensors"]
        assert (entry.bytes, entry.sha256) == (len(published), hashlib.sha256(published).hexdigest())
        assert (entry.licence, entry.config, entry.data_licence) == (CARD.licence, CARD.config, "not stated")
        assert f"are at {hub.url}/{REPO}/commit/{repo.head}" in result.stderr

    @pytest.mark.parametrize(
        ("name", "row_id"), [("My Model_2", "my-model-2"), ("a" * 99, "a" * 64), ("Größe", "gr-e"), ("--", "model")]
    )
    def test_any_name_becomes_one_that_the_catalogue_takes(
        self, name: str, row_id: str, run: Path, tmp_path: Path
    ) -> None:
        network, _ = weights.load_network(run / "tiny.safetensors")
        weights.save(run / "tiny.safetensors", network, replace(CARD, id=name))
        ready = publish.prepare(run, tmp_path / "out", REPO)
        (tmp_path / "models.yaml").write_text("models:\n" + publish.row(ready, REPO, "0" * 40))
        assert list(catalog.entries(tmp_path / "models.yaml")) == [row_id]

    def test_storage_that_breaks_is_an_error(
        self, run: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_: HfApi, **options: Any) -> Any:
            raise RuntimeError("Xet: connection reset")  # as the storage's own client says it

        monkeypatch.setattr(HfApi, "upload_folder", broken)
        with pytest.raises(ModelError, match="could not be written: Xet"):
            publish.upload(publish.prepare(run, tmp_path / "out", REPO), REPO)

    def test_unchanged_files_make_no_new_commit(self, run: Path, hub: FakeHub) -> None:
        first, again = (yaml.safe_load(publish_it(run, "--repo", REPO).stdout)[0] for _ in range(2))
        assert first == again
        (run / "recipe.yaml").write_text("id: other\n")
        assert yaml.safe_load(publish_it(run, "--repo", REPO).stdout)[0]["source"] != first["source"]

    def test_only_our_files_go(self, run: Path, hub: FakeHub, tmp_path: Path) -> None:
        ready = publish.prepare(run, tmp_path / "out", REPO)
        (ready.path / "diary.txt").write_text("secret")
        publish.upload(ready, REPO, private=True)
        assert set(hub.repos[REPO].files) == set(publish.NAMES)
        assert hub.repos[REPO].private

    def test_a_pull_request_creates_no_repository(
        self, run: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requested: dict[str, Any] = {}

        def upload_folder(_: HfApi, **options: Any) -> Any:
            requested.update(options)
            return SimpleNamespace(oid="0" * 40, pr_url="https://hub/pr/1", commit_url="")

        monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
        ready = publish.prepare(run, tmp_path / "out", REPO)
        assert publish.upload(ready, REPO, create_pr=True) == ("0" * 40, "https://hub/pr/1")
        assert requested["create_pr"]
        assert hub.repos == {}

    @pytest.mark.parametrize("token", ["", "hf_bad"])
    def test_without_a_token_that_counts(
        self, token: str, run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        with pytest.raises(ModelError, match="no token") as caught:
            publish_it(run, "--repo", REPO)
        assert "hf auth login" in caught.value.hint

    @pytest.mark.parametrize(("status", "words"), [(403, "no right"), (412, "at the same time"), (500, "could not be")])
    def test_refusals_are_errors(
        self, status: int, words: str, run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(handler: _Handler, *_: object) -> None:
            raise _Refusal(status, message="no")

        monkeypatch.setattr(_Handler, "_take_commit", refuse)
        with pytest.raises(ModelError, match=words) as caught:
            publish_it(run, "--repo", REPO)
        assert REPO in caught.value.problem
        assert hub.repos[REPO].files == {}

    def test_without_a_network(self, run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(ModelError, match=f"{REPO} could not be written"):
            publish_it(run, "--repo", REPO)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
            publish_it(run, "--repo", REPO)

    @pytest.mark.parametrize(
        "repo", ["tiny", "a/b/c", "a b/c", "-a/b", "a--b/c", "a/b.git", "", "https://hub/a/b", "a/" + 99 * "b"]
    )
    def test_names_that_the_hub_does_not_take(self, repo: str, run: Path, hub: FakeHub) -> None:
        with pytest.raises(ModelError, match="is not the name of a repository") as caught:
            publish_it(run, "--repo", repo, "--dry-run")
        assert "OWNER/NAME" in caught.value.hint
        assert hub.log == []


class TestDryRun:
    def test_it_shows_everything_and_sends_no_request(self, run: Path, hub: FakeHub, tmp_path: Path) -> None:
        result = publish_it(run, "--repo", REPO, "--dry-run", "--folder", tmp_path / "out")
        assert hub.log == []
        for path in (tmp_path / "out").iterdir():
            assert f"{path.stat().st_size:,}  {path.name}" in result.stdout
        assert result.stdout.startswith(f"{tmp_path / 'out'}: 5 files")
        assert result.stdout.endswith((tmp_path / "out" / "README.md").read_text())

    def test_the_folder_stays_unless_there_is_nothing_to_show(
        self, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        shown = publish_it(run, "--repo", REPO, "-n").stdout.partition(": ")[0]
        assert set(publish.NAMES) == {path.name for path in Path(shown).iterdir()}
        (run / "tiny.safetensors").write_bytes(b"damaged")
        with pytest.raises(ModelError):
            publish_it(run, "--repo", REPO, "-n")
        assert list((tmp_path / "temporary").iterdir()) == [Path(shown)]

    def test_a_model_without_a_licence_is_pointed_out(self, run: Path, tmp_path: Path) -> None:
        network, card = weights.load_network(run / "tiny.safetensors")
        weights.save(run / "tiny.safetensors", network, replace(card, licence=""))
        result = publish_it(run, "--repo", REPO, "-n", "--folder", tmp_path / "out")
        assert "have no licence" in result.stderr

    def test_help_needs_neither_torch_nor_the_hub(self) -> None:
        code = (
            "import sys; from medcli.cli.models import export, publish\n"
            "for module in (export, publish): module.command.main(['--help'], standalone_mode=False)\n"
            "sys.exit(bool({'torch', 'numpy', 'huggingface_hub', 'yaml'} & sys.modules.keys()))"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
