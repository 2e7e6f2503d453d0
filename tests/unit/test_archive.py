"""A backup archive is checked before anything in it is trusted or shown."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from quiltfn.operator.archive import FILES, Reader, Writer
from quiltfn.store import StoreBroken
from quiltfn.store.backup import snapshot
from quiltfn.store.calls import spool

FACTS: dict[str, Any] = {
    **{"quiltfn": "0.1.0", "revision": "0009", "made_at": 1_795_670_132},
    **{"functions": 1, "records": 2, "images": 0},
}


def an_archive(tmp_path: Path) -> bytes:
    """A complete backup archive that `Writer` has written, with three empty files."""
    with (tmp_path / "archive").open("wb") as file:
        writer = Writer(file)
        for name in FILES:
            (tmp_path / name).touch()
            writer.add_file(name, tmp_path / name)
        writer.finish(**FACTS)
    return (tmp_path / "archive").read_bytes()


def with_manifest(text: bytes | dict[str, Any]) -> io.BytesIO:
    """A backup archive with a valid digest, whose manifest is `text`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in FILES:
            archive.addfile(tarfile.TarInfo(name))
        if isinstance(text, dict):
            before = hashlib.sha256(file.getvalue()).hexdigest()
            text = json.dumps({"format": 1, **FACTS, "sha256": before, **text}).encode()
        info = tarfile.TarInfo("manifest.json")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    return file


def test_what_was_written_is_read(tmp_path: Path) -> None:
    for archive in (io.BytesIO(an_archive(tmp_path)), with_manifest({})):
        manifest = Reader(archive, "it").manifest
        assert {name: getattr(manifest, name) for name in FACTS} == FACTS


@pytest.mark.parametrize(
    "manifest",
    [
        {"revision": 9},
        {"made_at": "yesterday"},
        {"made_at": 10**18},
        {"made_at": -1},
        {"quiltfn": "\x1b]0;gone\x07"},
        {"revision": "0001\n"},
        {"functions": "many \x1b[2J"},
        {"images": 1.5},
        {"sha256": "\x00"},
        b"[" * 60_000,
        b"null",
        b"\xff",
        b"",
    ],
)
def test_a_manifest_that_is_none_is_told_in_a_sentence(manifest: bytes | dict[str, Any]) -> None:
    with pytest.raises(StoreBroken, match="it is damaged: its manifest is invalid") as caught:
        Reader(with_manifest(manifest), "it")
    assert str(caught.value).isprintable()


def test_long_names_behind_each_other_are_no_backup() -> None:
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2
    block = name.tobuf() + b"x".ljust(tarfile.BLOCKSIZE, b"\0")
    with pytest.raises(StoreBroken, match="is not a backup, or is incomplete"):
        Reader(io.BytesIO(block * 3000), "it")


def test_an_endless_line_is_not_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "LINE_MAX_BYTES", 1000)
    source, target = tmp_path / "journal-a.spool", tmp_path / "copy"
    source.write_bytes(bytes(1000))
    snapshot.copy_segment(source, target)  # the server was still writing the end of the segment
    source.write_bytes(bytes(1001))
    with pytest.raises(StoreBroken, match="a line is longer than any record"):
        snapshot.copy_segment(source, target)
