"""Writes the files that follow from the code: the settings' reference page and sample, the pages of
the states and of the security tests.

.venv/bin/python scripts/generate.py
"""

import dataclasses
import json
import runpy
from pathlib import Path
from typing import Any

from quiltfn import settings
from quiltfn.model import function, instance, invocation

ROOT = Path(__file__).resolve().parents[1]
# What a service needs to be different from a server that is started in a directory by hand.
SERVICE = {"data_dir": "/var/lib/quiltfn/data"}
HEAD = """\
# Settings of `quiltfn serve --config /etc/quiltfn/quiltfn.toml`.
# Lines that are commented out show the defaults. The command line and the environment
# (QUILTFN_IDLE_S=60) have more weight than this file. Made by scripts/generate.py.
"""


def sample() -> str:
    """packaging/quiltfn.toml."""
    parts = [HEAD]
    for field in dataclasses.fields(settings.Settings):
        about, low, high = (field.metadata[name] for name in ("about", "low", "high"))
        span = "" if low is None else f" ({low:.15g} to {high:.15g})"
        line = f"{field.name} = {toml(field.default)}"
        if field.name in SERVICE:
            line = f"{field.name} = {toml(SERVICE[field.name])}"
        else:
            line = f"# {line}"
        parts.append(f"# {about}{span}\n{line}\n")
    return "\n".join(parts)


def toml(value: Any) -> str:
    if value == Path():
        return '""'
    return json.dumps(str(value)) if isinstance(value, str | Path) else str(value)


STATES = """\
# States

The three state machines, from the tables that the code goes by (`src/quiltfn/model/`). What is not
in a table cannot happen: it would be a mistake of ours, raises, and is logged with the last events.
Made by scripts/generate.py.
"""
MACHINES = (
    ("Function", function.DESCRIPTIONS, function.NEXT),
    ("Instance", instance.DESCRIPTIONS, instance.NEXT),
    ("Invocation", invocation.DESCRIPTIONS, invocation.NEXT),
)


def states() -> str:
    """docs/states.md."""
    parts = [STATES]
    for noun, means, following in MACHINES:
        parts.append(f"\n## {noun}\n\n| state | means | then |\n|---|---|---|\n")
        for state, sentence in means.items():
            arrows = [f"{event.value} → {then.value}" for event, then in following[state].items()]
            parts.append(f"| {state.value} | {sentence} | {'; '.join(arrows) or 'the end'} |\n")
    return "".join(parts)


def security_tests() -> str:
    """docs/reference/security-tests.md."""
    rows, page = (
        runpy.run_path(str(ROOT / "tests" / "e2e" / f"security_{one}.py"))
        for one in ("cases", "page")
    )
    return str(page["page"](rows["CASES"]))


FILES = {
    ROOT / "docs" / "states.md": states,
    ROOT / "packaging" / "quiltfn.toml": sample,
    ROOT / "docs" / "reference" / "settings.md": settings.reference,
    ROOT / "docs" / "reference" / "security-tests.md": security_tests,
}


def main() -> None:
    for path, text in FILES.items():
        path.write_text(text())
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
