"""Writes TOML tables."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from quiltfn.cli.show import visible

BARE = re.compile("[A-Za-z0-9_-]+")


def table(path: Sequence[str], fields: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table and its nested tables. Values that are None are left out."""
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
    """A string, number, boolean or list of these in TOML."""
    if isinstance(item, list | tuple):
        return f"[{', '.join(map(value, item))}]"
    # JSON writes strings and numbers as TOML does. The escapes of invisible characters are valid,
    # too.
    return visible(json.dumps(item, ensure_ascii=False))
