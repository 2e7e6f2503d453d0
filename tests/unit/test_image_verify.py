"""Images on disk that no longer match what was uploaded."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from in_thread_jobs import InThreadJobs
from manual_clock import ManualClock
from quiltfn.images import ImageDirectory, ImageLimits
from quiltfn.images.verify import digest_of, is_damaged, stored
from quiltfn.model.image import Archive
from quiltfn.operator import doctor
from unit.sample_archives import directory, file, good, hard_link, in_pieces, link, packed

TREE = [
    directory("bin"),
    file("bin/run", b"#!/bin/sh\n", mode=0o755),
    file("mod.py", b"x" * 100_000),
    hard_link("also.py", "mod.py"),
    link("there", "mod.py"),
    directory("empty"),
    file("a b/\u00fc.txt", b""),
    file("a b.txt", b"sorted by bytes"),
]


@pytest.fixture
async def images(tmp_path: Path) -> Path:
    """An image directory with two images."""
    path = tmp_path / "images"
    there = ImageDirectory(path, ManualClock(), ImageLimits(), InThreadJobs())
    there.start()
    for archive in (packed(TREE), good()):
        await there.take(Archive.TAR, in_pieces(archive))
    return path


def image_with(images: Path, name: str) -> Path:
    (found,) = [one for one in images.iterdir() if (one / name).exists()]
    return found


def test_an_image_that_nobody_touched_has_its_name(images: Path) -> None:
    assert len(stored(images)) == 2
    for path in stored(images):
        assert digest_of(path) == path.name
        assert not is_damaged(path)
    assert not is_damaged(images / ("ab" * 32)), "it was removed meanwhile"


def flipped(root: Path) -> None:
    with (root / "mod.py").open("r+b") as it:
        it.seek(50_000)
        it.write(b"y")


def made_a_pipe(root: Path) -> None:
    (root / "mod.py").unlink()
    os.mkfifo(root / "mod.py")


def led_elsewhere(root: Path) -> None:
    (root / "there").unlink()
    (root / "there").symlink_to("bin")


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda root: os.truncate(root / "mod.py", 99_999),
        lambda root: (root / "bin/run").chmod(0o644),
        lambda root: (root / "bin/run").unlink(),
        lambda root: (root / "empty").rmdir(),
        lambda root: (root / "empty/more").touch(),
        lambda root: (root / "a b.txt").rename(root / "a c.txt"),
        led_elsewhere,
        made_a_pipe,
    ],
)
def test_every_change_is_found(images: Path, damage: Callable[[Path], object]) -> None:
    root = image_with(images, "empty")
    damage(root)
    assert [one for one in stored(images) if is_damaged(one)] == [root]


def test_doctor_names_the_damaged_and_says_what_to_do(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _settings: [])
    look = ["--images", "--data-dir", str(images.parent), "-o", "json"]

    def finding() -> dict[str, str]:
        assert doctor.main(look) == 0
        (found,) = json.loads(capsys.readouterr().out)["findings"]
        return dict(found)

    assert finding()["sentence"] == "all 2 images are unchanged since their upload"
    root = image_with(images, "empty")
    flipped(root)
    found = finding()
    assert (found["name"], found["level"]) == ("image_contents", "warn")
    assert f"1 of 2 ({root})" in found["sentence"]
    assert "upload the same files again" in found["advice"]
    look += ["--fleet", str(images.parent / "node.toml")]
    assert "a copy comes from another node" in finding()["advice"]
