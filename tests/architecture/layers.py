"""The packages of `quiltfn` that each package may import, and the resulting layers.

Late imports and imports for type checking count, too. A row names exactly what the package imports,
and a new package needs a row. scripts/generate.py writes the table to docs/architecture.md.
"""

from collections.abc import Mapping

CORE = {"model", "ports"}
MAY_KNOW: dict[str, set[str]] = {
    "model": set(),
    "wire": set(),
    "guest": set(),
    "native": set(),
    "ports": {"model"},
    "observe": {"model"},
    "http_trigger": {"model"},
    "base": {"model", "ports"},
    "settings": {"base"},
    "launcher": {"base"},
    "pool": CORE | {"base", "observe"},
    "sandbox": CORE | {"base", "guest", "http_trigger", "native"},
    "images": CORE | {"base"},
    "store": CORE | {"base"},
    "host": {"model", "store"},
    "tenants": CORE | {"base", "store"},
    "functions": CORE | {"base", "images", "store"},
    "calls": CORE | {"base", "observe", "store", "functions", "tenants"},
    "api": CORE
    | {"base", "observe", "http_trigger", "store", "host", "tenants", "functions", "calls", "wire"}
    | {"native"},
    "fleet": CORE
    | {"base", "observe", "settings", "http_trigger", "pool", "images", "store", "host", "tenants"}
    | {"functions", "calls", "api"},
    "server": CORE
    | {"base", "observe", "settings", "pool", "sandbox", "images", "store", "host", "tenants"}
    | {"functions", "calls", "api", "fleet"},
    "operator": CORE
    | {"base", "settings", "host", "images", "launcher", "store", "tenants", "fleet", "server"},
    "sdk": {"wire"},
    "cli": {"base", "sdk", "wire"},
    "__main__": {"cli", "operator"},
    "__init__": {"sdk"},
}

# The same table for the packages below `quiltfn.store`. `migrations` counts as a part of
# `database`, which has Alembic run it.
STORE_MAY_KNOW: dict[str, set[str]] = {
    "database": set(),
    "functions": {"database"},
    "tenants": {"database"},
    "calls": {"database", "functions", "tenants"},
    "fleet": {"database", "tenants", "calls"},
    "opening": {"database", "functions", "calls"},
    "opening_postgresql": {"database", "functions", "opening"},
    "backup": {"database", "calls", "opening"},
    "__init__": {"database", "functions", "tenants", "calls", "opening"},
}


def layers(may_know: Mapping[str, set[str]] = MAY_KNOW) -> list[list[str]]:
    """The packages and modules of a table from the bottom up: each may import only lower layers."""
    heights: dict[str, int] = {}
    for _ in may_know:
        for name, known in may_know.items():
            if known <= heights.keys():
                heights[name] = 1 + max((heights[one] for one in known), default=-1)
    assert heights.keys() == may_know.keys(), "packages know each other in a circle"
    found: list[list[str]] = [[] for _ in range(max(heights.values()) + 1)]
    for name in sorted(heights):
        found[heights[name]].append(name)
    return found
