"""Writes tables of TOML."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quiltfn.cli.show import visible

BARE = re.compile("[A-Za-z0-9_-]+")


def table(path: Sequence[str], fields: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table and of those in it; what is None is left out."""
    yield f"[{'.'.join(map(key, path))}]"
    inner = {name: one for name, one in fields.items() if isinstance(one, Mapping)}
    for name, field in fields.items():
        if name not in inner and field is not None:
            yield f"{key(name)} = {value(field)}"
    for name, field in inner.items():
        if field:
            yield ""
            yield from table([*path, name], field)


def key(name: str) -> str:
    return name if BARE.fullmatch(name) else value(name)


def value(item: Any) -> str:
    """A text, number, truth value or list of these."""
    if isinstance(item, list | tuple):
        return f"[{', '.join(map(value, item))}]"
    # JSON writes texts and numbers as TOML does. What is not seen is written as TOML can, too.
    return visible(json.dumps(item, ensure_ascii=False))
