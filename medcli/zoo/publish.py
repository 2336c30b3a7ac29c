"""From a training run to a repository on the Hugging Face Hub: a folder first, then its upload.

The folder holds all that others need: the page, the weights, the recipe, a vector to test them with, and
`config.json`, by whose requests the Hub counts downloads. Building it needs no network.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from medcli.errors import ModelError, OutputError
from medcli.files.checksum import checksums
from medcli.zoo import modelcard, test_vectors
from medcli.zoo.catalog import Entry, as_row
from medcli.zoo.description import Description, describe
from medcli.zoo.fetch import HubFile, failures, status_of
from medcli.zoo.model import find_model
from medcli.zoo.modelcard import NOT_STATED, Origin
from medcli.zoo.weights import Card

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
    412: ("{repo} was changed by another commit at the same time.", "Publish again."),
}


@dataclass(frozen=True)
class Folder:
    """A folder ready for the Hub. card: what its weights say of themselves; about: what its page was made from."""

    path: Path
    card: Card
    about: Description

    @property
    def files(self) -> dict[str, int]:
        """Names to bytes."""
        return {name: (self.path / name).stat().st_size for name in NAMES if (self.path / name).exists()}

    @property
    def page(self) -> str:
        return (self.path / PAGE).read_text(encoding="utf-8")


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
    model = find_model(str(source.absolute()))  # a name without folders could be that of a model
    network, card = model.network(), model.card
    about, origin = describe(card), Origin(WEIGHTS, repo)
    run = source if source.is_dir() else None
    own = _own_page(run)
    page = modelcard.with_usage(own, about, origin) if own else modelcard.render(about, origin)
    try:
        _clear(folder)
        (folder / PAGE).write_text(page, encoding="utf-8")
        (folder / CONFIG).write_text(json.dumps(card.as_dict(), indent=2, sort_keys=True) + "\n")
        shutil.copyfile(model.path, folder / WEIGHTS)
        if run and (run / RECIPE).is_file():
            shutil.copyfile(run / RECIPE, folder / RECIPE)
        test_vectors.write(folder / VECTOR, network, card)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}.") from error
    return Folder(folder, card, about)


def _clear(folder: Path) -> None:
    """Makes an empty folder; one with anything but an earlier publication in it is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in folder.iterdir())
    strange = [name for name in found if name not in NAMES]
    if strange:
        raise OutputError(f"{folder} contains other files: {', '.join(strange[:3])}.", "Name an empty or a new folder.")
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
        raise ModelError(
            f"The Hub cannot read {run / PAGE}: {error}", "Correct the lines between the dashes."
        ) from error
    if "license" not in data:
        raise ModelError(f"{run / PAGE} names no licence.", "Add 'license: ...' between the dashes at its top.")
    return page


def check_repo(repo: str) -> None:
    """Raises ModelError unless `repo` is a name the Hub accepts; sends no request."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not re.fullmatch(r"[^/\s]+/[^/\s]+", repo):
        raise ModelError(f"'{repo}' is not the name of a repository.", REPO_HINT)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ModelError(f"'{repo}' is not the name of a repository: {error}", REPO_HINT) from error


def upload(folder: Folder, repo: str, *, private: bool = False, create_pr: bool = False) -> Commit:
    """Creates the repository if need be and commits the folder's files to it; unchanged files make no new commit.

    repo: `owner/name`. private: of a repository that is new; the setting of an existing one stays. create_pr: as a
    pull request, for the repository of another owner. HF_ENDPOINT and HF_TOKEN are honoured.
    Raises ModelError where the name, the token, its rights or the network do not allow it.
    """
    from huggingface_hub import HfApi

    check_repo(repo)
    with _explained(repo):
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
def _explained(repo: str) -> Iterator[None]:
    """Turns what the Hub's client raises into ModelError."""
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ModelError("There is no token for the Hub on this machine.", TOKEN_HINT) from error
    except OfflineModeIsEnabled as error:
        raise ModelError("HF_HUB_OFFLINE is set.", "Unset it, or use --dry-run.") from error
    except failures() as error:
        problem, hint = REASONS.get(status_of(error) or 0, (f"{{repo}} could not be written: {error}", NETWORK_HINT))
        raise ModelError(problem.replace("{repo}", repo), hint) from error


def row(folder: Folder, repo: str, revision: str) -> str:
    """The model as a row of `models.yaml`; what the weights do not tell reads "not stated" and wants its author."""
    about, weights = folder.about, checksums(folder.path / WEIGHTS)
    stated = {
        "id": _row_id(about.id),
        "summary": about.summary or about.title or NOT_STATED,
        "domain": about.domain or ("gray" if about.channels == 1 else "photo"),
        "macs_per_pixel": round(about.macs_per_pixel),
    }
    stated |= {
        key: getattr(about, key) or NOT_STATED for key in ("title", "noise", "licence", "data_licence", "method")
    }
    source = HubFile(repo, WEIGHTS, revision, weights.bytes, weights.sha256)
    entry = Entry(**vars(about) | stated, source=source, file=WEIGHTS, bytes=weights.bytes, sha256=weights.sha256)
    return yaml.safe_dump([as_row(entry)], sort_keys=False, allow_unicode=True, width=112)


def _row_id(name: str) -> str:
    """A name as the catalogue takes it."""
    return re.sub("[^a-z0-9.]+", "-", name.lower()).strip("-.")[:64] or "model"
