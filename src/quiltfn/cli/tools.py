"""The programs of others that commands run: pip, uv, npm, pnpm, skopeo. Each may fail, be killed,
and say anything in any encoding.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from quiltfn.cli.parsing import BadParameter

SAID_MAX = 2000


def run(
    command: Sequence[str],
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, in the directory (else here) and with the variables (else ours).
    An exception here ends it. Raises `BadParameter` if it cannot be run.
    """
    try:
        return subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise BadParameter(f"{command[0]} cannot be run: {error.strerror}") from None


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a program that failed has said, and which signal killed it, if one did."""
    words = (done.stderr.strip() or done.stdout.strip())[-SAID_MAX:]
    killed = f"it was killed by signal {-done.returncode}" if done.returncode < 0 else ""
    return "\n".join(filter(None, (words, killed)))
