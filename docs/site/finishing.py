"""Turns Sphinx's pages into a site that a server may send: the name of every file but the pages has
a digest, no page contains anything that the site's policy refuses, and every link leads somewhere.
"""

import base64
import gzip
import hashlib
import os
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

REFERENCE = re.compile(r'(?<= )(src|href)="([^"#]*)"')
# The policy allows no inline script or style in a page, and no code that parses text as HTML.
IN_PAGES = [
    (
        re.compile(
            r"<script>\s*document\.body\.dataset\.theme = "
            r'localStorage\.getItem\("theme"\) \|\| "auto";\s*</script>'
        ),
        '<script src="{top}_static/theme.js"></script>',
    ),
    (re.compile(r' style="display: none;"'), ' class="is-hidden"'),
    (re.compile(r' style="opacity: 50%"'), ' opacity="0.5"'),
    # These make elements with scroll bars scrollable by keys, and give each heading a level.
    (re.compile("<pre>"), '<pre tabindex="0">'),
    (re.compile('<div class="table-wrapper'), '<div tabindex="0" class="table-wrapper'),
    (re.compile('class="caption" role="heading"'), 'class="caption" role="heading" aria-level="2"'),
]
IN_SEARCH = [
    ("linkEl.innerHTML = _escapeHTML(title);", "linkEl.textContent = title;"),
    (
        '("span")).innerHTML =\n      ` (${_escapeHTML(descr)})`;',
        '("span")).textContent = ` (${descr})`;',
    ),
    (
        "fetch(requestUrl)\n      .then((responseData) => responseData.text())",
        "fetchDocument(requestUrl)",
    ),
    (
        'new DOMParser().parseFromString(\n      htmlString,\n      "text/html",\n    );',
        "htmlString;",
    ),
]
# This code adds a link that runs a script to hide the highlights; a key does the same.
IN_HIGHLIGHTS = re.compile(r"\n    const searchBox = .*?\n    \);\n", re.DOTALL)
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|DOMParser|document\.write"
    r"|\beval\(|javascript:"
)
PACKAGES = ("furo", "sphinx", "sphinx-basic-ng", "snowballstemmer")


@dataclass
class Page(HTMLParser):
    """What a page has: ids, links, and what the policy would refuse."""

    name: str
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Records one element."""
        found = dict(attrs)
        if "id" in found:
            self.ids.add(found["id"] or "")
        for name in ("href", "src"):
            if found.get(name) is not None:
                self.links.append(found[name] or "")
        is_inline = tag == "style" or (tag == "script" and "src" not in found)
        if is_inline or "style" in found or any(one.startswith("on") for one in found):
            self.refused.append(f"<{tag}>")
        loads = found.get("src") or (found.get("href") if tag == "link" else "") or ""
        if urlsplit(loads).netloc:
            self.refused.append(f"<{tag}> from {loads}")


def finish(html: Path, out: Path) -> list[str]:
    """Writes the site into `out`. Returns what is wrong with it, a line for each fault."""
    patch_search(html / "_static")
    pages = {str(one.relative_to(html)): one.read_text() for one in sorted(html.rglob("*.html"))}
    names: dict[str, str] = {}
    for name, text in pages.items():
        pages[name] = with_hashed(clean(text, name), name, html, names)
    files = {new: (html / old).read_bytes() for old, new in names.items()}
    files |= {name: text.encode() for name, text in pages.items()}
    files["LICENSES.txt"] = licenses().encode()
    faults = faults_of(pages, set(files))
    faults += [
        f"{name}: makes HTML of text"
        for name, content in files.items()
        if name.endswith(".js") and SINKS.search(content.decode())
    ]
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            path.write_bytes(content)
        else:
            packed = gzip.compress(content, 9, mtime=0)
            path.with_name(f"{path.name}.gz").write_bytes(packed)
    return faults


def clean(text: str, name: str) -> str:
    """A page without what its policy refuses."""
    top = "../" * name.count("/")
    for pattern, instead in IN_PAGES:
        text = pattern.sub(instead.format(top=top), text)
    return text


def patch_search(static: Path) -> None:
    """Replaces the code in Sphinx's search that parses text as HTML. If another version of Sphinx
    has different code, so that nothing is replaced, `finish` reports a fault.
    """
    search, highlight = static / "searchtools.js", static / "sphinx_highlight.js"
    text = search.read_text()
    for before, after in IN_SEARCH:
        text = text.replace(before, after)
    search.write_text(text)
    highlight.write_text(IN_HIGHLIGHTS.sub("\n", highlight.read_text()))


def with_hashed(text: str, page: str, html: Path, names: dict[str, str]) -> str:
    """The text of a page, with the hashed names of the files that it loads. Adds new hashed names
    to `names`.
    """

    def reference(found: re.Match[str]) -> str:
        attribute, target = found.groups()
        path = target.partition("?")[0]
        parts = urlsplit(target)
        name = os.path.normpath(os.path.join(os.path.dirname(page), unquote(path)))
        if parts.scheme or parts.netloc or name.endswith(".html") or not (html / name).is_file():
            return found[0]
        if name not in names:
            names[name] = hashed(name, (html / name).read_bytes())
        there = os.path.relpath(names[name], os.path.dirname(page) or ".")
        return f'{attribute}="{there}"'

    return REFERENCE.sub(reference, text)


def hashed(name: str, content: bytes) -> str:
    """The name with a digest of the content, in the form that the server recognizes."""
    first, dot, suffix = name.rpartition(".")
    digest = base64.b32encode(hashlib.sha256(content).digest()).decode()[:8]
    return f"{first}-{digest}{dot}{suffix}"


def faults_of(pages: dict[str, str], files: set[str]) -> list[str]:
    """What a policy refuses, and links and anchors that lead nowhere."""
    parsed: dict[str, Page] = {}
    for name, text in pages.items():
        parsed[name] = Page(name)
        parsed[name].feed(text)
    faults = []
    for name, page in parsed.items():
        faults += [f"{name}: the policy refuses {one}" for one in page.refused]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = name
            if parts.path:
                target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path)))
            if target not in files:
                faults.append(f"{name}: {link} leads nowhere")
            elif target in parsed and unquote(parts.fragment) not in parsed[target].ids | {""}:
                faults.append(f"{name}: {link} is no place in that page")
    return faults


def licenses() -> str:
    """The licences of the software by others that the site contains."""
    parts = ["Software in the documentation of quiltfn, with its licences.\n"]
    for name in PACKAGES:
        found = distribution(name)
        head = f"{name} {found.version}"
        texts = [
            one.read_text() for one in found.files or () if one.name.upper().startswith("LICEN")
        ]
        parts.append(f"{head}\n{'-' * len(head)}\n\n" + "\n".join(texts).strip() + "\n")
    return "\n\n".join(parts)
