"""Everything a user can cause, as one family. Each error is a letter: what was wrong, what was seen, what to try.

MedcliError            exit 1
|- InputError          a file that cannot be read as an image
|- OutputError         a result that cannot be written where it was asked for
|- ModelError          an unknown, corrupt or unsuitable model
|- DeviceError         a device that is absent, or too small for the work
|- RecipeError         a training recipe or an option of one that makes no sense
|- TrainingError       a training run that cannot go on
`- SomeFailed          exit 3: a run over many files that finished, with failures
"""

from __future__ import annotations

import errno


class MedcliError(Exception):
    """An error to be shown to a person without a traceback.

    `problem` says in one sentence what was wrong and what was seen; `hint` says what to try.
    """

    exit_code = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(f"{problem}\n{hint}" if hint else problem)
        self.problem = problem
        self.hint = hint

    def __reduce__(self) -> tuple[type[MedcliError], tuple[str, str]]:
        """Another process gets both parts."""
        return type(self), (self.problem, self.hint)


# CPU, MPS and the libraries below them say it only in words; oneDNN does not even name memory.
_OUT_OF_MEMORY = (
    "not enough memory",
    "allocate memory",  # can't, cannot, unable to
    "out of memory",
    "alloc_failed",
    "bad_alloc",
    "insufficient memory",
    "could not create a primitive",
    "could not create a memory",
    "failed to map segment",
    "unable to mmap",
    "can't start new thread",
)


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory ran out."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    says = str(error).lower()
    return any(words in says for words in _OUT_OF_MEMORY)


class InputError(MedcliError):
    """A file is missing, empty, truncated, too large, or not an image."""


class OutputError(MedcliError):
    """A result cannot be written: no rights, no room, a format without the depth, or a name that is taken."""


class ModelError(MedcliError):
    """A model is unknown, corrupt, or does not fit the image."""


class DeviceError(MedcliError):
    """A device was asked for and is not there, or has too little memory."""


class RecipeError(MedcliError):
    """A recipe, or an option that overrides it, cannot be followed."""


class TrainingError(MedcliError):
    """Training cannot start or cannot go on."""


class SomeFailed(MedcliError):
    """A run over many files ended, but some of them failed."""

    exit_code = 3
