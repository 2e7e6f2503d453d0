"""Reads times from the command line: ages, times, days."""

import time
from typing import Annotated

from msgspec import Struct

from quiltfn.cli.parsing import DURATIONS, BadParameter, Option, seconds_in

EXAMPLES = f"an age such as {DURATIONS}, today, yesterday, 09:30, or 2026-12-01T09:30"


class Period(Struct, frozen=True, kw_only=True):
    """From when until when."""

    since: Annotated[
        str | None, Option(metavar="WHEN", help=f"Start of the period: {EXAMPLES}.")
    ] = None
    until: Annotated[
        str | None, Option(metavar="WHEN", help="End of the period, in the same form as --since.")
    ] = None

    def bounds(self) -> tuple[int | None, int | None]:
        """Both in Unix seconds. Raises `BadParameter`."""
        since, until = moment_of("--since", self.since), moment_of("--until", self.until)
        if since is not None and until is not None and since > until:
            raise BadParameter("--since must be before --until")
        return since, until


def moment_of(option: str, text: str | None) -> int | None:
    """The time in Unix seconds. Without a time zone, this machine's zone is used. A day stands for
    its beginning. Raises `BadParameter`.
    """
    if text is None:
        return None
    age = seconds_in(text)
    if age is not None:
        return int(time.time()) - age
    from datetime import datetime, timedelta  # noqa: PLC0415 — not needed for an age
    from datetime import time as time_of_day  # noqa: PLC0415

    now = datetime.fromtimestamp(time.time())
    try:
        if text in ("today", "yesterday"):
            days = timedelta(days=("today", "yesterday").index(text))
            found = datetime.combine(now.date() - days, time_of_day())
        elif len(text) <= len("09:30:00") and ":" in text:
            found = datetime.combine(now.date(), time_of_day.fromisoformat(text))
        else:
            found = datetime.fromisoformat(text)
        return int(found.timestamp())
    except (ValueError, OverflowError, OSError):
        raise BadParameter(f"{option} must be {EXAMPLES}, not {text!r}") from None
