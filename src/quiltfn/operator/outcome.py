"""The final message of commands on stored data, and the matching exit code."""

import sys
from collections.abc import Callable
from typing import cast

from quiltfn.base.setting_files import BadSetting
from quiltfn.store import StoreBroken

FINE, REFUSED, STORE_BROKEN, BAD_SETTING = 0, 1, 74, 78


def run_and_report(work: Callable[[], str]) -> int:
    """Runs `work`, and prints its result or its error; returns the exit code."""
    try:
        print(work())
    except BadSetting as error:
        return complain(str(error), BAD_SETTING)
    except StoreBroken as error:
        return complain(str(error), STORE_BROKEN)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return complain(f"{where}{error.strerror or error}", REFUSED)
    except SystemExit as error:  # the exit code of a child process that has printed the reason
        return int(cast("int", error.code))
    return FINE


def complain(sentence: str, code: int) -> int:
    """Prints the reason of a failure; returns the exit code."""
    print(f"quiltfn: {sentence}", file=sys.stderr)
    return code
