"""Reads tensors from untrusted `.pth` files.

A pickle is a program. torch's restricted loader runs only what builds tensors; this file runs that loader in a child
process with little memory and little time, loads tensors and nothing else, and takes them back as safetensors. All
that a hostile file can cause that way is an error message.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medcli.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

SECONDS = 300.0
SPARE_BYTES = 512 << 20  # beside four times the file: as read, as tensors, made contiguous, on the way out
MAX_TENSORS = 20_000
MAX_NAME = 200
WRAPPERS = ("params_ema", "params", "state_dict", "model")  # where there are several, the first of these is the best
DEEPEST_WRAPPER = 8  # a dictionary may hold itself
REFUSED = 3

# All that torch.load was seen to raise on damaged files; anything else ends the child process with an exit code.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
    MemoryError,
    struct.error,
)


def unpickled(path: Path, folder: Path, *, seconds: float = SECONDS) -> Path:
    """The tensors of a `.pth` file as a new safetensors file in `folder`, which should be empty and private.

    Raises ModelError where the file wants more than tensors (naming what it wanted), is damaged, or takes more than
    `seconds` or more memory than its size explains.
    """
    target = folder.resolve() / "tensors.safetensors"
    command = [sys.executable, "-m", __name__, str(path.resolve()), str(target)]
    try:
        # The folder as the place to run from: `-m` looks for modules there first, and it is empty.
        done = subprocess.run(
            command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{path} was not read within {seconds:g} s; no weight file needs that long.") from error
    if done.returncode == REFUSED:
        problem, hint = json.loads(done.stdout.splitlines()[-1])
        raise ModelError(problem.replace(str(path.resolve()), str(path)), hint)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ModelError(f"{path} cannot be read: the reader ended with code {done.returncode}. {last}".strip())
    return target


def _environment() -> dict[str, str]:
    """This process's, finding the same modules; one thread, since each takes address space of its own."""
    package = str(Path(__file__).parents[2])
    found = [package, *(str(Path(each).resolve()) for each in sys.path if each)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(found), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def tensors_in(path: Path) -> dict[str, Tensor]:
    """The named tensors of a `.pth` file, out of the dictionaries that training programs wrap them in.

    Runs in the process that calls it: for the child. Raises ModelError as `unpickled` does.
    """
    import torch

    _check_archive(path)
    state = unwrapped(_loaded(path))
    if not isinstance(state, Mapping) or not state:
        raise ModelError(f"{path} holds a {type(state).__name__}, not tensors by name.", _PLAIN)
    if len(state) > MAX_TENSORS:
        raise ModelError(f"{path} holds {len(state)} entries; no denoiser has that many.")
    tensors = {checked_name(path, name): _tensor(path, name, value) for name, value in state.items()}
    claimed, size = sum(each.numel() * each.itemsize for each in tensors.values()), path.stat().st_size
    if claimed > size:
        raise ModelError(f"{path} claims {claimed} bytes of tensors and is {size} bytes long.", _PLAIN)
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


_PLAIN = "It should be a state dict: a dictionary of names and tensors, saved with torch.save."


def unwrapped(state: object) -> object:
    """What lies inside `params_ema`, `params`, `state_dict` or `model`, however deep, the averaged weights first."""
    for _ in range(DEEPEST_WRAPPER):
        if not isinstance(state, Mapping):
            return state
        inner = [state[name] for name in WRAPPERS if isinstance(state.get(name), Mapping)]
        if not inner:
            return state
        state = inner[0]
    return state


def _check_archive(path: Path) -> None:
    """Refuses archives whose members would unpack to more than the file holds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # torch's own test; what is not a zip is of the older format
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (*_UNREADABLE, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is damaged: {error}.", "Fetch or copy the file again.") from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ModelError(f"{path} is a compressed archive; torch.save never compresses.", _PLAIN)
    if sum(member.file_size for member in members) > size:
        raise ModelError(f"{path} claims to unpack to more than its own {size} bytes.", _PLAIN)


def _loaded(path: Path) -> object:
    import torch

    try:
        # Said explicitly, because an environment variable turns the default off.
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        if refused := re.search(r"GLOBAL ([\w.]+\w)", str(error)):  # as torch names it
            raise ModelError(
                f"{path} is refused: it asks Python for {refused[1]}, and medcli loads tensors alone. Nothing was run.",
                "Ask its author for a safetensors file or a plain state dict, or convert it where nothing is at risk.",
            ) from error
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{path} cannot be read as weights: {reason[:300]}", _PLAIN) from error
    return loaded


def checked_name(path: Path, name: object) -> str:
    """The name of a tensor, if it can be one and can be shown to people. Raises ModelError."""
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        raise ModelError(f"{path} holds an entry called {name!r:.80}, which names no tensor.", _PLAIN)
    return name


def _tensor(path: Path, name: str, value: object) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ModelError(f"{path}: '{name}' is a {type(value).__name__}, not a tensor.", _PLAIN)
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.is_complex():
        raise ModelError(f"{path}: '{name}' is a tensor of an unusual kind ({value.dtype}, {value.layout}).", _PLAIN)
    return value


def _limit_memory(spare: int) -> None:
    """Lets this process take `spare` bytes more than it has, where the system supports such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    import psutil

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = psutil.Process().memory_info().vms + spare
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    except (ValueError, OSError):  # macOS knows the name and refuses the deed
        return


def main(source: Path, target: Path) -> int:
    """What the child does: the tensors of `source` as safetensors in `target`, or an error message on stdout."""
    import torch  # before the limit: its own libraries are not the file's
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    try:
        _limit_memory(SPARE_BYTES + 4 * source.stat().st_size)
        save_file(tensors_in(source), target)
    except ModelError as error:
        print(json.dumps([error.problem, error.hint]))
        return REFUSED
    except OSError as error:
        print(json.dumps([f"{source} cannot be read: {error.strerror}.", ""]))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
