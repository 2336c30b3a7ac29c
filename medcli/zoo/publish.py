"""From a training run to a repository on the Hugging Face Hub: a folder first, then its upload.

The folder holds all that somebody else needs: the page, the weights, the recipe, a vector to test them with, and
`config.json`, by whose requests the Hub counts downloads. Building it needs no network.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medcli.errors import ModelError, OutputError
from medcli.zoo import catalog, modelcard, weights
from medcli.zoo.checksum import sha256_of
from medcli.zoo.modelcard import NOT_STATED

PAGE, CONFIG, WEIGHTS, RECIPE, VECTOR = NAMES = (
    "README.md",
    "config.json",
    "model.safetensors",
    "recipe.yaml",
    "vector.safetensors",
)
TOKEN_HINT = "Make a token with the right to write at https://huggingface.co/settings/tokens, then 'hf auth login'."
REPO_HINT = "Give it as OWNER/NAME, of letters, digits, '-', '_' and '.'."
NETWORK_HINT = "Try again; behind a proxy that blocks the Hub's Xet storage, with HF_HUB_DISABLE_XET=1."
REASONS = {
    401: ("The Hub knows no user by your token, or there is no token.", TOKEN_HINT),
    403: ("Your token has no right to write to {repo}.", TOKEN_HINT),
    404: ("The Hub does not show {repo} to you.", TOKEN_HINT),
    412: ("Somebody else wrote to {repo} at the same time.", "Publish again."),
}


@dataclass(frozen=True)
class Folder:
    """A folder ready for the Hub. card: what its weights say of themselves; facts: what its page was made from."""

    path: Path
    card: weights.Card
    facts: modelcard.Facts

    @property
    def files(self) -> dict[str, int]:
        """Names to bytes."""
        return {name: (self.path / name).stat().st_size for name in NAMES if (self.path / name).exists()}

    @property
    def page(self) -> str:
        return (self.path / PAGE).read_text(encoding="utf-8")

    @property
    def sha256(self) -> str:
        """Of the weights."""
        return sha256_of(self.path / WEIGHTS)


class Commit(NamedTuple):
    """What an upload left on the Hub: the commit (40 hex digits), and where a person can look at it."""

    revision: str
    url: str


def prepare(source: Path, folder: Path, repo: str = "") -> Folder:
    """Builds the folder for a run's folder or a weight file; the same source gives the same bytes.

    A README.md in the run's folder is taken, with the way to run it changed to that of the Hub; without one, the page
    is made from what the weights say. Raises ModelError for weights or a page that cannot be used, OutputError for a
    folder that is not empty or cannot be written.
    """
    from medcli.zoo import vectors

    file = catalog.locate(str(source.absolute()))  # a name without folders could be that of a model
    network, card = weights.load_network(file)
    facts = replace(modelcard.of_card(card, WEIGHTS), repo=repo)
    run = source if source.is_dir() else None
    own = _own_page(run)
    page = modelcard.readdressed(own, facts) if own else modelcard.render(facts)
    try:
        _clear(folder)
        (folder / PAGE).write_text(page, encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(asdict(card), indent=2, sort_keys=True) + "\n")
        shutil.copyfile(file, folder / WEIGHTS)
        if run and (run / RECIPE).is_file():
            shutil.copyfile(run / RECIPE, folder / RECIPE)
        vectors.write(folder / VECTOR, network, card)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}.") from error
    return Folder(folder, card, facts)


def _clear(folder: Path) -> None:
    """Makes an empty folder; one with anything but an earlier publication in it is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in folder.iterdir())
    strange = [name for name in found if name not in NAMES]
    if strange:
        raise OutputError(f"{folder} holds other things: {', '.join(strange[:3])}.", "Name an empty or a new folder.")
    for name in found:
        (folder / name).unlink()


def _own_page(run: Path | None) -> str | None:
    """The page that lies in the run's folder; raises ModelError where the Hub could not read it."""
    if run is None or not (run / PAGE).is_file():
        return None
    from huggingface_hub import ModelCard

    try:
        page = (run / PAGE).read_text(encoding="utf-8")
        data = ModelCard(page, ignore_metadata_errors=False).data.to_dict()  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ModelError(f"The Hub cannot read {run / PAGE}: {error}", "Mend the lines between the dashes.") from error
    if "license" not in data:
        raise ModelError(f"{run / PAGE} names no licence.", "Add 'license: ...' between the dashes at its top.")
    return page


def check_repo(repo: str) -> None:
    """Raises ModelError unless `repo` is a name the Hub accepts; asks nobody."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not re.fullmatch(r"[^/\s]+/[^/\s]+", repo):
        raise ModelError(f"'{repo}' is not the name of a repository.", REPO_HINT)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ModelError(f"'{repo}' is not the name of a repository: {error}", REPO_HINT) from error


def upload(folder: Folder, repo: str, *, private: bool = False, create_pr: bool = False) -> Commit:
    """Creates the repository if need be and commits the folder's files to it; unchanged files make no new commit.

    repo: `owner/name`. private: of a repository that is new; the setting of an existing one stays. create_pr: as a
    pull request, for a repository of somebody else. HF_ENDPOINT and HF_TOKEN are honoured.
    Raises ModelError where the name, the token, its rights or the network do not allow it.
    """
    from huggingface_hub import HfApi

    check_repo(repo)
    with _letters(repo):
        hub = HfApi(library_name="medcli")
        if not create_pr:
            hub.create_repo(repo, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repo,
            folder_path=folder.path,
            allow_patterns=list(folder.files),
            commit_message=f"{folder.card.id}, {folder.card.steps:,} steps" if folder.card.steps else folder.card.id,
            create_pr=create_pr,
        )
    return Commit(commit.oid, commit.pr_url or commit.commit_url)


@contextmanager
def _letters(repo: str) -> Iterator[None]:
    """Turns what the Hub's client raises into letters."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    from medcli.zoo.fetch import failures, status_of

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ModelError("There is no token for the Hub on this machine.", TOKEN_HINT) from error
    except OfflineModeIsEnabled as error:
        raise ModelError("HF_HUB_OFFLINE forbids to reach the Hub.", "Unset it, or look with --dry-run.") from error
    except failures() as error:
        problem, hint = REASONS.get(status_of(error) or 0, (f"{{repo}} could not be written: {error}", NETWORK_HINT))
        raise ModelError(problem.replace("{repo}", repo), hint) from error


def row(folder: Folder, repo: str, revision: str) -> str:
    """The model as a row of `models.yaml`; what the weights do not tell reads "not stated" and wants its author."""
    facts = folder.facts
    values: dict[str, Any] = {
        "id": _row_id(facts.id),
        "title": facts.title or NOT_STATED,
        "summary": facts.summary or facts.title or NOT_STATED,
        "domain": "gray" if facts.channels == 1 else "photo",
        "architecture": facts.architecture,
        "config": folder.card.config,
        "strategy": facts.strategy,
        "channels": facts.channels,
        "noise": facts.noise or NOT_STATED,
        "value_range": list(facts.value_range),
        "multiple": facts.multiple,
        "receptive_field": facts.receptive_field,
        "half_safe": facts.half_safe,
        "parameters": facts.parameters,
        "macs_per_pixel": round(facts.macs_per_pixel),
        "source": {"repo": repo, "file": WEIGHTS, "revision": revision},
        "bytes": folder.files[WEIGHTS],
        "sha256": folder.sha256,
        "licence": facts.licence or NOT_STATED,
        "data_licence": facts.data_licence or NOT_STATED,
        "training_data": list(facts.training_data),
        "method": facts.method or NOT_STATED,
        "recipe": facts.recipe,
        "scores": dict(facts.scores),
        "citation": facts.citation,
    }
    return yaml.safe_dump([values], sort_keys=False, allow_unicode=True, width=112)


def _row_id(name: str) -> str:
    """A name as the catalogue takes it."""
    return re.sub("[^a-z0-9.]+", "-", name.lower()).strip("-.")[:64] or "model"
