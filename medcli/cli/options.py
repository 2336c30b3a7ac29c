"""Types of option values and options shared by commands. Nothing here checks the hardware."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.shell_completion import CompletionItem

from medcli import cpu
from medcli.batch.denoise.options import NO_OUTPUT, Output
from medcli.engine.options import TileSize
from medcli.engine.runtimes.choice import RUNTIMES
from medcli.files.stores import StorePath, is_url

if TYPE_CHECKING:
    from medcli.batch.shards import Shard
    from medcli.images.values import RangeChoice

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
DEVICES = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def _use_threads(_ctx: click.Context, _param: click.Parameter, value: int | None) -> int | None:
    if value is not None:
        cpu.use_threads(value)
    return value


def threads(*, exposed: bool = False, help: str = "Threads that compute on the CPU.  [default: cores]") -> Decorator:
    """`--threads N` for a command that computes; it acts by itself, before torch is imported."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        metavar="N",
        callback=_use_threads,
        expose_value=exposed,
        help=help,
    )


class UserPath(click.Path):
    """A path as users write it: `~` is their home, also where no shell has opened it up; an empty name is refused.

    stream: the device (/dev/stdin or /dev/stdout) that means the same as `-`; empty where `-` has no meaning.
    stores: whether it may be an address in an object store or on the web.
    """

    def __init__(
        self,
        *,
        exists: bool = False,
        file_okay: bool = True,
        dir_okay: bool = True,
        stream: str = "",
        stores: bool = False,
    ) -> None:
        self._stores = stores
        super().__init__(exists, file_okay, dir_okay, allow_dash=bool(stream), path_type=Path)
        self._stream = stream

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = name_or_path(os.fspath(value))
        if self._stores and is_url(text):
            return _stored(text)
        return super().convert("-" if text == self._stream else text, param, ctx)


class OutputPath(UserPath):
    """A `UserPath` for a result, as an `Output`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        return Output(path, os.fspath(value).endswith(("/", os.sep)))


class ImageFormat(click.Choice[str]):
    """A key of FORMATS, also by the suffixes of its files: `jpg`, `tif`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from medcli.images.formats import SUFFIXES  # imports numpy

        return super().convert(SUFFIXES.get(f".{value.lower().lstrip('.')}", value), param, ctx)


def _stored(url: str) -> StorePath:
    from medcli.errors import MedcliError

    try:
        return StorePath.of(url)
    except MedcliError as error:
        raise click.BadParameter(f"{error.problem} {error.hint}") from None


def name_or_path(value: str) -> str:
    """The name of a model, a recipe or a pool, or a path, with `~` or `~user` replaced by the home.

    A file whose name begins with `~` is taken as it is.
    """
    if not value:
        raise click.BadParameter("the name is empty. If it came from a variable, the variable is not set.")
    return value if os.path.lexists(value) else os.path.expanduser(value)  # noqa: PTH111 - keeps what no user has


PATH = UserPath()
FILE = UserPath(dir_okay=False)
FOLDER = UserPath(file_okay=False)
EXISTING_FOLDER = UserPath(exists=True, file_okay=False)


def device(value: str) -> str:
    """`auto`, `cpu`, `mps`, `cuda` or `cuda:1`; whether it is there is found out when it is used."""
    if not DEVICES.fullmatch(value):
        raise click.BadParameter(f"'{value}' is none of auto, cpu, cuda, cuda:N and mps.")
    return value


def devices(value: str) -> str:
    """One device, or several with commas between them, for one worker each."""
    names = [device(name) for name in value.split(",")]
    if len(names) > 1 and "auto" in names:
        raise click.BadParameter(f"'{value}': name each device, as in cuda:0,cuda:1.")
    return value


def tile(value: str) -> TileSize:
    """`auto`, or a number of pixels, 0 for the whole image."""
    if value == "auto":
        return "auto"
    if not value.isdecimal():
        raise click.BadParameter(f"'{value}' is neither 'auto' nor a number of pixels.")
    return int(value)


def shard(value: str) -> Shard:
    """`3/8`."""
    from medcli.batch.shards import Shard
    from medcli.errors import MedcliError

    try:
        return Shard.parse(value)
    except MedcliError as error:
        raise click.BadParameter(f"{error.problem} {error.hint}") from None


def strength(value: str) -> float:
    """A number from 0 to 1."""
    number = float(value)
    if not 0 <= number <= 1:
        raise click.BadParameter(f"{value} is not between 0 (nothing changes) and 1 (all of it).")
    return number


def strength_or_auto(value: str) -> float | Literal["auto"]:
    """A number from 0 to 1, or `auto`."""
    return "auto" if value == "auto" else strength(value)


def _together(*decorators: Decorator) -> Decorator:
    """One decorator that adds the options of all of them, in this order of the help."""
    return lambda command: reduce(lambda given, decorator: decorator(given), reversed(decorators), command)


def model_option(help: str, *names: str, default: str | None = None, multiple: bool = False) -> Decorator:
    """`-m`, `--model`; names: that of the parameter, if it is another one."""
    return click.option(
        "-m", "--model", *names, multiple=multiple, default=default, show_default=bool(default), type=name_or_path,
        metavar="NAME|FILE", shell_complete=complete_model, help=help,
    )  # fmt: skip


def output_option(help: str, stream: str = "", stores: bool = False) -> Decorator:
    """`-o`, `--output`, as an `Output`. stream, stores: see `UserPath`."""
    return click.option(
        "-o", "--output", metavar="OUTPUT", type=OutputPath(stream=stream, stores=stores), help=help,
        callback=lambda _ctx, _param, value: value or NO_OUTPUT,
    )  # fmt: skip


def device_options(*precisions: str, help: str = "auto, cpu, cuda, cuda:N or mps.", several: bool = False) -> Decorator:
    """`--device` and `--precision`, which is auto or one of `precisions`. several: devices, one for each worker."""
    choice = click.Choice(["auto", *precisions])
    kind, metavar = (devices, "DEVICE,...") if several else (device, "DEVICE")
    return _together(
        click.option("--device", type=kind, metavar=metavar, default="auto", show_default=True, help=help),
        click.option("--precision", type=choice, default="auto", show_default=True),
    )


def runtime_option() -> Decorator:
    """`--runtime`."""
    words = "What runs the network: PyTorch, ONNX Runtime or OpenVINO.  [default: the fastest]"
    return click.option("--runtime", type=click.Choice(["auto", *RUNTIMES]), default="auto", help=words)


def range_options(*, nodata: bool = False) -> Decorator:
    """`--range` and `--range-from`, and `--nodata` where it is wanted; `chosen_range` reads them."""
    words = "Which values are black and white.  [default: auto, see 'med denoise --help']"
    meaning = "A value without data.  [default: as the file says]"
    options = [
        click.option("--range", metavar="auto|dtype|LOW:HIGH", default="auto", help=words),
        click.option("--range-from", metavar="FILE", type=FILE, help="Take the range of this image for all."),
        click.option("--nodata", type=float, metavar="VALUE", help=meaning),
    ]
    return _together(*options if nodata else options[:2])


def sharpen_options() -> Decorator:
    """`--sharpen` and `--sharpen-by`."""
    words = "Unsharp masking of the result, 0 to 2; 0.2 unless given."
    by = "Sharpen the value of HSV, which keeps the hue, or each channel."
    return _together(
        click.option("--sharpen", type=amount, is_flag=False, flag_value="0.2", default=0.0, metavar="[A]", help=words),
        click.option("--sharpen-by", type=click.Choice(["value", "rgb"]), default="value", show_default=True, help=by),
    )


def tile_option(help: str = "Side in pixels; 0: the whole at once.") -> Decorator:
    """`--tile`."""
    return click.option("--tile", type=tile, metavar="auto|N|0", default="auto", show_default=True, help=help)


def run_options(*, force: str = "", dry_run: str = "", quiet: str = "Only errors on standard error.") -> Decorator:
    """`--force` and `--dry-run` where they have a help, and `--quiet`."""
    options = [click.option("-q", "--quiet", is_flag=True, help=quiet)]
    if dry_run:
        options.insert(0, click.option("-n", "--dry-run", is_flag=True, help=dry_run))
    if force:
        options.insert(0, click.option("-f", "--force", is_flag=True, help=force))
    return _together(*options)


def worker_options(*names: str, default: str = "one for each of several devices, else this process") -> Decorator:
    """`--workers` and `--cluster`. names: others of the first; default: in words."""
    help = f"Processes that share the images.  [default: {default}]"
    return _together(
        click.option("--workers", *names, type=click.IntRange(min=1), metavar="N", help=help),
        click.option("--cluster", metavar="auto|HOST:PORT", help="Workers of a Ray cluster instead."),
    )


recursive_option = click.option("-r", "--recursive", is_flag=True, help="Look into subfolders, and mirror them.")


def chosen_range(given: RangeChoice | str, first: Path | None, nodata: float | None = None) -> RangeChoice:
    """The range of --range, or of the image of --range-from. Raises UsageError for what is no range, InputError."""
    from medcli.errors import MedcliError
    from medcli.images import read
    from medcli.images.values import parse_range, range_of

    if first is not None and given != "auto":
        raise click.UsageError("--range and --range-from exclude each other.")
    if first is not None:
        pages = read(first).pages
        for page in pages:
            page.nodata = page.nodata if nodata is None else nodata
        return range_of("auto", pages)
    try:
        return parse_range(str(given))
    except MedcliError as error:
        raise click.BadParameter(f"{error.problem} {error.hint}", param_hint="--range") from None


def assigned(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`views=3` -> {"views": 3}: values as in YAML. option: its name, for error messages."""
    import yaml

    found = {}
    for pair in pairs:
        name, is_there, value = pair.partition("=")
        if not is_there:
            raise click.BadParameter(f"'{pair}' is not NAME=VALUE.", param_hint=option)
        try:
            found[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # the latter for a date such as 2020-13-45
            raise click.BadParameter(f"the value of '{pair}' cannot be understood.", param_hint=option) from None
    return found


def rounds(value: str) -> int:
    """A number of refinement passes. An image's name in its place gets a hint."""
    if not value.isdecimal():
        raise click.BadParameter(f"'{value}' is no number. Before an image's name, write --refine=8.")
    if int(value) > 64:
        raise click.BadParameter(f"{value} is not between 0 (none) and 64; 8 is usual.")
    return int(value)


def amount(value: str) -> float:
    """An amount of sharpening. An image's name in its place gets a hint."""
    try:
        number = float(value)
    except ValueError:
        hint = "Before an image's name, write --sharpen=0.2."
        raise click.BadParameter(f"'{value}' is no number. {hint}") from None
    if not 0 <= number <= 2:
        raise click.BadParameter(f"{value} is not between 0 (none) and 2; 0.2 is usual.")
    return number


def suffix(value: str) -> str:
    """A part of a file name."""
    if {"/", "\\", "\0"} & set(value):
        raise click.BadParameter(f"'{value}' cannot be part of a file name.")
    return value


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Model names that begin like this, for the shell, and files where there are none."""
    return complete_id(ctx, param, incomplete) or [CompletionItem(incomplete, type="file")]


def complete_id(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Model names alone that begin like this, with their titles; those given already are left out."""
    from medcli.zoo.catalog import entries

    given = ctx.params.get(param.name or "") or ()
    found = [entry for name, entry in entries().items() if name.startswith(incomplete) and name not in given]
    return [CompletionItem(entry.id, help=entry.title) for entry in found]


def complete_fetched(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of models that do not come with medcli and are on this machine."""
    from medcli.zoo.catalog import entries, is_here

    known = entries()
    items = complete_id(ctx, param, incomplete)
    return [item for item in items if known[item.value].hub is not None and is_here(known[item.value])]
