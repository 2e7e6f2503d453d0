"""Archives for tests of images: valid ones, and malicious ones that must not be unpacked."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

Entry = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]
GOOD = {"app.py": b"print(1)\n", "lib/data.txt": b"x" * 2000, "bin/run": b"#!/bin/sh\n"}


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def file(name: str, content: bytes = b"content", **fields: Any) -> Entry:
    return entry(name, size=len(content), **fields), content


def directory(name: str) -> Entry:
    return entry(name, tarfile.DIRTYPE)


def link(name: str, target: str) -> Entry:
    return entry(name, tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> Entry:
    return entry(name, tarfile.LNKTYPE, linkname=target)


def packed(entries: Iterable[Entry], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive with exactly these members."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                tar.addfile(entry[0], io.BytesIO(entry[1]))
    return out.getvalue()


def raw(*headers: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An archive of these headers and contents, some of which no library would write."""
    found = b""
    for info, data in headers:
        block = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
        found += block + data + b"\0" * (-len(data) % 512)
    return found + b"\0" * 1024


def extended(records: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> tuple[Any, bytes]:
    """A pax header with these records."""
    data = b""
    for key, value in records.items():
        body = f" {key}={value}\n".encode()
        length = len(body) + len(str(len(body)))
        length = len(body) + len(str(length))
        data += str(length).encode() + body
    return entry("pax", kind, size=len(data)), data


def good(**options: Any) -> bytes:
    """An archive of a small, ordinary tree."""
    entries = [file(name, data) for name, data in GOOD.items()]
    return packed([*entries, link("current", "lib/data.txt")], **options)


def pressed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


async def in_pieces(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def everything_below(path: Path) -> set[str]:
    return {str(one.relative_to(path)) for one in path.rglob("*")}


def a_wheel(path: Path, name: str = "demo", *, tag: str = "py3-none-any", about: str = "") -> Path:
    """A wheel with one module and one program, written without a build tool. `about`: more lines
    of its metadata.
    """
    wheel = path / f"{name}-1.0-{tag}.whl"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{about}",
        "WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        "entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "WORD = 'from the wheel'\ndef main(): print(WORD)\n")
        for file, text in files.items():
            archive.writestr(f"{name}-1.0.dist-info/{file}", text)
    return wheel


def a_builder(place: Path, marker: Path) -> Path:
    """A source directory whose build creates the file `marker` as soon as a tool reads its
    metadata.
    """
    place.mkdir()
    (place / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (place / "backend.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    return place
