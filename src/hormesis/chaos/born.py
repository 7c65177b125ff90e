"""What a command is before it is one: marked, known to the keeper, under the limits that it is born with.

This file is run by a bare interpreter, as a program of its own: what `births` starts is this, which does what it was
told and then becomes the command, under the same number.

Little is imported, for it delays each start.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

__all__ = ["KEEPER_HAS_DIED", "main"]

KEEPER_HAS_DIED = b"+"
"""What is said before the error's number when the keeper could not be told."""


def main(told: int, report: int, keeper: int) -> None:
    """Do what a file says, then become the command; if that can't be, say why and end with status 127.

    Args:
        told: The file, of fields that end with a NUL byte each: how many births, arguments and variables there are, and
            then these.
        report: A pipe for the number of the error. When the command runs it is closed, with nothing said.
        keeper: The pipe to the keeper; below 0: there is none.
    """
    with os.fdopen(told, "rb") as file:
        fields = iter(file.read().split(b"\0"))
    counts = [int(next(fields)) for _ in range(3)]
    births, argv, variables = ([next(fields) for _ in range(count)] for count in counts)
    env = dict(variable.split(b"=", 1) for variable in variables)
    folders = [b""] if b"/" in argv[0] else env.get(b"PATH", os.fsencode(os.defpath)).split(b":")
    programs = [os.path.join(folder, argv[0]) for folder in folders]
    os.set_inheritable(report, False)
    if keeper >= 0:
        os.set_inheritable(keeper, False)
        try:
            os.write(keeper, b"+%d\n" % os.getpid())
        except OSError as error:
            os.write(report, KEEPER_HAS_DIED + b"%d" % (error.errno or 0))
            os._exit(127)
    for name in ("SIGPIPE", "SIGXFSZ"):  # an interpreter ignores them, and so would the command
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    for birth in births:  # last, for after one there may be no memory and no file left but for the command
        _be(birth)
    os.write(report, b"%d" % _become(programs, argv, env))
    os._exit(127)


def _be(birth: bytes) -> None:
    """Be born with a limit or in a group; a system that doesn't let it be has the command run without."""
    kind, _, rest = birth.partition(b" ")
    try:
        if kind == b"join":
            with open(rest, "wb", buffering=0) as file:
                file.write(b"0")
            return
        limit, value = map(int, rest.split())
        soft, hard = resource.getrlimit(limit)
        if kind == b"mark":
            resource.setrlimit(limit, (value, value))
        elif soft == resource.RLIM_INFINITY or value < soft:
            resource.setrlimit(limit, (value, hard))
    except (OSError, ValueError):
        pass


def _become(programs: list[bytes], argv: list[bytes], env: dict[bytes, bytes]) -> int:
    """Become the first of these programs that can be run; returns the number of the error if there is none."""
    missing = failed = 0
    for program in programs:
        try:
            os.execve(program, argv, env)  # noqa: S606  # this is what it is for
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error.errno or 0
        except OSError as error:
            failed = failed or error.errno or 0
    return failed or missing


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
