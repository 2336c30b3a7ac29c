"""Mutations of the structure of image files (offsets, counts, lengths, chains), and children with limits to read them.

A format joins by a row in MUTATORS, (file, random numbers) -> file. `failures` reads the mutated files.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterable, Iterator

from raster_mutators import mutated_jpeg, mutated_png, mutated_webp

from medcli.errors import InputError
from medcli.images import read

SECONDS, MEGABYTES = 2, 200
BATCH = 200  # cases that one child reads, if none of them ends it
VALUE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

EXTREMES = (0, 1, 2, 3, 255, 65535, 2**31, 2**32 - 1, 2**40, 2**63)

Field = tuple[int, str]  # position, and the number there as struct spells it


def mutated_tiff(data: bytes, rng: random.Random) -> bytes:
    """One to four numbers of the header, the directories or their arrays are changed; at times the end is cut off."""
    fields, directories = _tiff_fields(data)
    result = bytearray(data)
    for at, code in rng.sample(fields, min(len(fields), rng.randint(1, 4))):
        (old,) = struct.unpack_from(code, data, at)
        bits = 8 * struct.calcsize(code)
        changed = (old + 1, old - 1, 2 * old, old // 2, old << 8, old << 16, rng.getrandbits(bits))
        places = (len(data), len(data) - 1, rng.choice(directories), rng.choice(fields)[0], rng.randrange(len(data)))
        struct.pack_into(code, result, at, rng.choice((*EXTREMES, *changed, *places)) % 2**bits)
    return bytes(result[: rng.randrange(8, len(result))] if rng.random() < 0.05 else result)


def _tiff_fields(data: bytes) -> tuple[list[Field], list[int]]:
    """Every number of a sound TIFF's structure, and where its directories lie."""
    mark, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    link, number, entry = (f"{mark}Q", f"{mark}Q", 20) if big else (f"{mark}I", f"{mark}H", 12)
    room = struct.calcsize(link)
    waiting: list[Field] = [(8 if big else 4, link)]
    fields, directories = list(waiting), []
    while waiting:
        (at,) = struct.unpack_from(link, data, waiting.pop()[0])
        if not at or at in directories:
            continue
        directories.append(at)
        (count,) = struct.unpack_from(number, data, at)
        start = at + struct.calcsize(number)
        for place in range(start, start + entry * count, entry):
            tag, kind, length = struct.unpack_from(f"{mark}HH{link[1]}", data, place)
            value = place + 4 + room
            fields += [(place, f"{mark}H"), (place + 2, f"{mark}H"), (place + 4, link)]
            size = VALUE_SIZES.get(kind, 1)
            if size * length > room:
                fields.append((value, link))
                (value,) = struct.unpack_from(link, data, value)
            code = mark + {2: "H", 4: "I", 8: "Q"}.get(size, "B")
            fields += [(value + size * index, code) for index in range(min(length, 4))]
            waiting += [(value, link)] if tag in (0x8769, 0x8825) else []
        fields += [(at, number), (start + entry * count, link)]
        waiting.append(fields[-1])
    return fields, directories


MUTATORS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "tiff": mutated_tiff,
    "jpeg": mutated_jpeg,
    "png": mutated_png,
    "webp": mutated_webp,
}


def cases(format: str, samples: list[bytes], seeds: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """(seed, mutated file); the seed alone decides the case."""
    for seed in seeds:
        rng = random.Random(seed)
        yield seed, MUTATORS[format](rng.choice(samples), rng)


def failures(format: str, samples: list[bytes], seeds: range) -> list[str]:
    """A line for each seed whose file was neither read nor refused by InputError, within 2 s and 200 MB.

    The files are read in forked children, so that a crash or an endless loop ends only the child.
    """
    read(samples[0])  # what is imported is imported once, before the fork
    found, waiting = [], list(seeds)
    while waiting:
        done, line = _in_child(format, samples, waiting[:BATCH])
        if line:
            found.append(f"{format}, seed {waiting[done]}: {line}")
            done += 1
        waiting = waiting[done:]
    return found


def _in_child(format: str, samples: list[bytes], seeds: list[int]) -> tuple[int, str]:
    """How many cases went well, and what ended the child, if anything did."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print there
        _read_all(format, samples, seeds, sending)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        reported = pipe.read().split(b"\n")
    _, status = os.waitpid(child, 0)
    done = reported.count(b"ok")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return done, f"more than {SECONDS} s" if number == signal.SIGALRM else signal.Signals(number).name
    return done, b"\n".join(reported[done:]).decode().strip()


def _read_all(format: str, samples: list[bytes], seeds: list[int], pipe: int) -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEGABYTES * 2**20,) * 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for _, data in cases(format, samples, seeds):
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        line = _outcome(data)
        os.write(pipe, (line or "ok").encode() + b"\n")
        if line:
            break


def _outcome(data: bytes) -> str:
    try:
        read(data)
    except InputError as error:
        return "more than 200 MB" if "more memory" in error.problem else ""
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""
