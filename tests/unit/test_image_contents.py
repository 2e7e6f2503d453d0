"""What the API lists of an image: its files in the order of their paths, and its packages."""

import json
import os
from pathlib import Path

import pytest

from promises import promise
from quiltfn.images import contents
from quiltfn.images.contents import files_of, packages_of
from quiltfn.model.errors import Unprocessable
from quiltfn.model.image import ImageFile, Package, PackageKind

pytestmark = promise("A64", "A76")

PYTHON, NODE = PackageKind.PYTHON, PackageKind.NODE


def write(root: Path, path: str, text: str = "x") -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def metadata(root: Path, where: str, text: str) -> None:
    write(root, f"{where}.dist-info/METADATA", text)


def test_files_are_in_the_order_of_their_paths_page_by_page(tmp_path: Path) -> None:
    paths = ["a/b/c", "a/b.d", "a.b", "z", "a/b/d", "a/z", "b/1", "ä"]
    for path in paths:
        write(tmp_path, path)
    expected = sorted(paths, key=lambda path: path.split("/"))
    for count in (1, 3, 100):
        found: list[str] = []
        while page := files_of(tmp_path, found[-1] if found else "", count):
            found += [one.path for one in page]
        assert found == expected
    for absent, first in (("a/b/cc", "a/b/d"), ("a/y/x", "a/z"), ("b", "b/1")):
        assert files_of(tmp_path, absent, 9)[0].path == first


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image with links that lead out of it."""
    root, outside = tmp_path / "image", tmp_path / "outside"
    write(outside, "secret/file", "secret")
    write(root, "run", "12345").chmod(0o755)
    (root / "directory").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret" / "file")
    return root


def test_a_file_is_told_with_its_size_and_a_link_is_not_followed(root: Path) -> None:
    assert files_of(root, "", 9) == [
        ImageFile(path="directory", size_bytes=0, is_link=True),
        ImageFile(path="file", size_bytes=0, is_link=True),
        ImageFile(path="run", size_bytes=5, is_executable=True),
    ]


@pytest.mark.parametrize(
    "path", ["file", "directory/secret/file", "a/../run", "run/", "", "socket", "a"]
)
def test_no_path_leads_out_of_an_image_or_to_what_is_no_file(root: Path, path: str) -> None:
    write(root, "a/b")
    os.mkfifo(root / "socket")
    assert contents.read(root, path, 100) is None
    assert contents.read(root, "run", 5) == b"12345"  # control: a file of the image can be read
    with pytest.raises(Unprocessable):
        contents.read(root, "run", 4)


def test_packages_say_what_they_are(tmp_path: Path) -> None:
    metadata(tmp_path, "lib/requests-2", "Metadata-Version: 2.1\nName: requests\nVersion: 2.32.3\n")
    metadata(tmp_path, "odd", "Name: Odd\nVersion: 1\n\nName: other\nVersion: 2\n")
    for path, manifest in (
        ("node_modules/left-pad", {"name": "left-pad", "version": "1.3.0"}),
        ("node_modules/@a/b", {"name": "@a/b", "version": "2.0.0"}),
        ("node_modules/left-pad/node_modules/deep", {"name": "deep", "version": "3.0.0"}),
        ("src/no-package", {"name": "no-package", "version": "1"}),
    ):
        write(tmp_path, f"{path}/package.json", json.dumps(manifest))
    found, is_complete = packages_of(tmp_path)
    assert is_complete
    assert found == [
        Package(kind=NODE, name="@a/b", version="2.0.0"),
        Package(kind=NODE, name="deep", version="3.0.0"),
        Package(kind=NODE, name="left-pad", version="1.3.0"),
        Package(kind=PYTHON, name="Odd", version="1"),
        Package(kind=PYTHON, name="requests", version="2.32.3"),
    ]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"name":1,"version":"1"}', '{"name":"a"}', "[" * 100_000, "\0"]
)
def test_what_describes_no_package_is_passed_over(tmp_path: Path, text: str) -> None:
    write(tmp_path, "node_modules/a/package.json", text)
    metadata(tmp_path, "a", text)
    assert packages_of(tmp_path) == ([], True)


def test_nothing_but_a_regular_file_is_read_for_it(tmp_path: Path) -> None:
    """A link could lead out of the image, and reading a FIFO would never end."""
    root = tmp_path / "image"
    secret = write(tmp_path, "secret", "Name: secret\nVersion: 1\n")
    for name in ("link", "fifo", "directory"):
        (root / f"{name}.dist-info").mkdir(parents=True)
    (root / "link.dist-info" / "METADATA").symlink_to(secret)
    os.mkfifo(root / "fifo.dist-info" / "METADATA")
    (root / "directory.dist-info" / "METADATA").mkdir()
    metadata(tmp_path / "outside", "b", "Name: secret\nVersion: 1\n")
    write(tmp_path, "outside/a/package.json", '{"name":"secret","version":"1"}')
    (root / "linked.dist-info").symlink_to(tmp_path / "outside/b.dist-info")
    (root / "node_modules").mkdir()
    (root / "node_modules/linked").symlink_to(tmp_path / "outside/a")
    assert packages_of(root) == ([], True)
    found, _ = packages_of(tmp_path / "outside")
    assert found, "without the link there is something to be found"


def test_names_are_shortened_and_can_be_sent(tmp_path: Path) -> None:
    write(
        tmp_path, "node_modules/a/package.json", '{"name":"\\ud800' + "n" * 500 + '","version":"1"}'
    )
    ((package,), _) = packages_of(tmp_path)
    assert len(package.name) == contents.NAME_MAX
    package.name.encode()


def test_what_is_looked_at_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        metadata(tmp_path, f"p{number}", f"Name: p{number}\nVersion: 1\n")
    monkeypatch.setattr(contents, "PACKAGES_MAX", 5)
    assert len(packages_of(tmp_path)[0]) == 5
    monkeypatch.setattr(contents, "PACKAGES_MAX", 100)
    monkeypatch.setattr(contents, "ENTRIES_MAX", 3)
    assert packages_of(tmp_path)[1] is False
