"""The entry point: commands for this machine go to `operator`, all others to the HTTP client.

The client's distribution has no `operator`, since it also runs on other systems than Linux.

The imports are inside functions on purpose: `serve` becomes the privileged launcher and must not
load a terminal library, and a client command must not load the server.
"""

import gc
import io
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import argparse

# The exit codes that a shell reports for programs ended by SIGINT and SIGPIPE.
INTERRUPTED, NOBODY_READS = 130, 141
WRONG = 2
OPERATOR = "quiltfn.operator"
PARSERS = {
    "serve": f"{OPERATOR}.chosen_settings.parser",
    "keys": f"{OPERATOR}.keys.parser",
    "service": f"{OPERATOR}.service.parser",
    "doctor": f"{OPERATOR}.doctor.parser",
    "backup": f"{OPERATOR}.backup.backup_parser",
    "restore": f"{OPERATOR}.backup.restore_parser",
    "store": f"{OPERATOR}.store.parser",
    "fleet": f"{OPERATOR}.fleet.parser",
    "simulate": f"{OPERATOR}.simulate.command.parser",
}


def main() -> None:
    """The `quiltfn` command."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        start(word)
    except ModuleNotFoundError as error:
        if error.name != OPERATOR:
            raise
        print(
            f"error: this is the client of quiltfn, and {word} is a command of the server's machine"
            "\nhint: install quiltfn there, and run it there",
            file=sys.stderr,
        )
        sys.exit(WRONG)


def start(word: str) -> NoReturn:
    """Runs the command that `word` names, and ends the program."""
    if word == "serve":
        gc.disable()
        from quiltfn.operator import serve  # noqa: PLC0415

        collect_again()
        code = serve.main(sys.argv[2:])
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code)  # ends the process like `quiltfn.server.main`
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # shows what the terminal cannot
    try:
        code = run(word)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        leave_silently()
    sys.exit(code)


def run(word: str) -> int:
    """Runs any command except the server; returns the exit code."""
    if word == "doctor":
        from quiltfn.operator import doctor  # noqa: PLC0415

        return doctor.main(sys.argv[2:])
    if word == "keys":
        from quiltfn.operator import keys  # noqa: PLC0415

        return keys.main(sys.argv[2:])
    if word in ("backup", "restore"):
        from quiltfn.operator import backup  # noqa: PLC0415

        end_in_order()
        act = backup.backup if word == "backup" else backup.restore
        return act(sys.argv[2:])
    if word == "store":
        from quiltfn.operator import store  # noqa: PLC0415

        return store.main(sys.argv[2:])
    if word == "fleet":
        from quiltfn.operator import fleet  # noqa: PLC0415

        return fleet.main(sys.argv[2:])
    if word == "simulate":
        from quiltfn.operator.simulate import command  # noqa: PLC0415

        return command.main(sys.argv[2:])
    if word == "service":
        from quiltfn.operator import service  # noqa: PLC0415

        return service.main(sys.argv[2:])
    # During the import below, Ctrl-C ends the process at once: an exception while a C module is
    # imported may get lost, or cause another failure.
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    gc.disable()
    from quiltfn import cli  # noqa: PLC0415

    collect_again()
    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    end_in_order()
    return cli.main(parser_of)


def parser_of(word: str) -> "argparse.ArgumentParser | None":
    """The argument parser of a command for this machine; None: only the client is installed."""
    import importlib  # noqa: PLC0415 — only completion needs it

    module, _, name = PARSERS[word].rpartition(".")
    try:
        found: argparse.ArgumentParser = getattr(importlib.import_module(module), name)()
    except ModuleNotFoundError:
        return None
    return found


def collect_again() -> None:
    """Turn garbage collection on again after imports, excluding imported objects. Collecting during
    imports would add a tenth to their time.
    """
    gc.freeze()
    gc.enable()


def end_in_order() -> None:
    """From now on, SIGTERM and SIGHUP end the command as Ctrl-C does: temporary files, such as
    packages being installed, are removed, and its child programs end. A second signal ends it at
    once.
    """
    ends = [signal.SIGTERM]
    if sys.platform != "win32":
        ends.append(signal.SIGHUP)
    for number in ends:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)


def leave_silently() -> NoReturn:
    """Discard the remaining output: the reader has closed it, as `head` does."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    sys.exit(NOBODY_READS)


if __name__ == "__main__":
    main()
