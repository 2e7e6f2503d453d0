"""Lays the Markdown of the repository out as Sphinx takes it: where each page is in the site, what
its links lead to there, and the navigation, which follows from docs/README.md.

The Markdown itself stays as a code host shows it.
"""

import os
import re
import shutil
from pathlib import Path

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
# Below a heading: what else the section is searched for, each an entry of the index.
FOUND_BY = re.compile(r"^<!-- found by: (.*?) -->\n", re.MULTILINE)
COMMENT = re.compile(r"^<!-- .*? -->\n", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z]+:|#")
MAP = "docs/README.md"
DECISIONS = "Decisions"
# A page that is no entry of the navigation is not missing there.
ORPHAN = "---\norphan: true\n---\n"
TREE = "\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def stage(root: Path, out: Path) -> None:
    """Writes every page into `out`."""
    places = places_of(root)
    shutil.copytree(root / "docs/pictures", out / "pictures")
    sections = sections_of((root / MAP).read_text())
    trees = {title: entries(text, places) for title, text in sections.items()}
    in_trees = {one for some in trees.values() for one in some} - set(trees.pop(DECISIONS))
    for source, place in places.items():
        text = moved((root / source).read_text(), source, place, root, places)
        if place == "index.md":
            last = list(trees)[-1]
            trees[last].append("decisions/index")
            text += "".join(tree(caption, names) for caption, names in trees.items())
        elif place.removesuffix(".md") not in in_trees:
            text = ORPHAN + text
        if place.startswith("decisions/"):
            text += "\n[All decisions](index.md)\n"
        write(out / place, text)
    listed = f"# {DECISIONS}\n{sections[DECISIONS]}"
    write(out / "decisions/index.md", moved(listed, MAP, "decisions/index.md", root, places))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def places_of(root: Path) -> dict[str, str]:
    """Where each page is in the site: README.md is its start page, and docs/ is its top."""
    found = {MAP: "map.md", "README.md": "index.md"}
    for path in sorted(root.glob("*.md")):
        found.setdefault(path.name, path.name.lower())
    for path in sorted((root / "docs").rglob("*.md")):
        place = path.relative_to(root / "docs")
        is_first = place.name == "README.md"
        name = str(place.with_name("index.md") if is_first else place)
        found.setdefault(str(path.relative_to(root)), name)
    return found


def sections_of(text: str) -> dict[str, str]:
    """What is below each heading of the second level."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(text: str, places: dict[str, str]) -> list[str]:
    """The pages that a section of the map links to, as entries of a tree."""
    found: dict[str, None] = {}
    for _, _, target in LINK.findall(text):
        source = os.path.normpath(f"docs/{target.partition('#')[0]}")
        if source in places and source != "README.md":
            found[places[source].removesuffix(".md")] = None
    return list(found)


def tree(caption: str, names: list[str]) -> str:
    return TREE.format(caption=caption, entries="\n".join(names))


def index(found: re.Match[str]) -> str:
    """Entries of the index, each a main one, which a search shows before all else."""
    entries = ", ".join(f"!{one.strip()}" for one in found[1].split(","))
    return f"```{{index}} {entries}\n```\n"


def moved(text: str, source: str, place: str, root: Path, places: dict[str, str]) -> str:
    """The text of a page with its links as they are from `place`. What is no page of the site, such
    as a program, is named and not linked to.
    """

    def link(found: re.Match[str]) -> str:
        mark, label, target = found.groups()
        if ELSEWHERE.match(target):
            return found[0]
        path, hash_mark, anchor = target.partition("#")
        path = os.path.normpath(os.path.join(os.path.dirname(source), path))
        if path in places:
            there = places[path]
        elif path.startswith("docs/pictures/"):
            there = path.removeprefix("docs/")
        elif (root / path).exists():
            return label
        else:
            return found[0]  # dead: the build says so
        there = os.path.relpath(there, os.path.dirname(place) or ".")
        return f"{mark}[{label}]({there}{hash_mark}{anchor})"

    text = COMMENT.sub("", FOUND_BY.sub(index, text))
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)
