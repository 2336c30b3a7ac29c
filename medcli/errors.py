"""Errors that users can cause. Each has a problem, with the value that caused it, and a hint what to do.

MedcliError            exit 1
|- InputError          a file that cannot be read as an image
|- OutputError         a result that cannot be written
|- ModelError          an unknown, corrupt or unsuitable model
|- OptionError         exit 2: options that exclude each other, or would have no effect
|- DeviceError         a device that is not available or has too little memory
|- RecipeError         an invalid training recipe or option
|- TrainingError       a training run that cannot start or continue
`- SomeFailed          exit 3: a run over many files in which some failed
"""

from __future__ import annotations

import errno


class MedcliError(Exception):
    """An error that is printed without a traceback.

    problem: one sentence, with the value that caused the error. hint: what to do.
    """

    exit_code = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(f"{problem}\n{hint}" if hint else problem)
        self.problem = problem
        self.hint = hint

    def __reduce__(self) -> tuple[type[MedcliError], tuple[str, str]]:
        """Keeps both parts when pickled for another process."""
        return type(self), (self.problem, self.hint)


# On CPU and MPS only the text of the error says so; oneDNN's does not even mention memory.
_OUT_OF_MEMORY = (
    "not enough memory",
    "allocate memory",  # can't, cannot, unable to
    "out of memory",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
    "insufficient memory",
    "could not create a primitive",
    "could not create a memory",
    "failed to map segment",
    "unable to mmap",
    "can't start new thread",
)


def ran_out(error: BaseException) -> bool:
    """Whether `error` means out of memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    says = str(error).lower()
    return any(words in says for words in _OUT_OF_MEMORY)


class InputError(MedcliError):
    """A file is missing, empty, truncated, too large, or not an image."""


class OutputError(MedcliError):
    """A result cannot be written: no permission, a full disk, a format without this bit depth, or an existing file."""


class ModelError(MedcliError):
    """A model is unknown, corrupt, or does not fit the image."""


class OptionError(MedcliError):
    """Options exclude each other, would have no effect, or one is missing: a usage error."""

    exit_code = 2


class DeviceError(MedcliError):
    """A requested device is not available or has too little memory."""


class RecipeError(MedcliError):
    """A recipe, or an option that overrides it, is invalid."""


class TrainingError(MedcliError):
    """Training cannot start or continue."""


class SomeFailed(MedcliError):
    """A run over many files finished, but some of them failed."""

    exit_code = 3


def as_medcli_error(error: Exception) -> MedcliError | None:
    """What is printed of an error that ends a command; None for a bug, which is worth a traceback."""
    if isinstance(error, MedcliError):
        return error
    if isinstance(error, OSError):  # not caught where it occurred: a folder without permissions, an invalid name
        name = f"{error.filename}: " if error.filename else ""  # a standard stream has none
        return MedcliError(f"{name}{error.strerror or error}.")
    if isinstance(error, (MemoryError, RuntimeError, ImportError)) and ran_out(error):
        hint = "Close other programs, or raise the limit on memory, if there is one."
        return MedcliError("There is not enough memory.", hint)
    return None
