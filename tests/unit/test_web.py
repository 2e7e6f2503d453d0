"""The files of dashboard and documentation: which are served, and how the dashboard is built.

These tests start no server.
"""

import gzip
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import quiltfn
from promises import promise
from quiltfn.api.http.request import Headers
from quiltfn.api.routes import web
from quiltfn.api.routes.web import WebFile, has_tag
from quiltfn.model.errors import NotFound

ROOT = Path(__file__).resolve().parents[2]
PACKED = WebFile.of("main-ABCDEF12.js", gzip.compress(b"code"), is_packed=True)
PLAIN = WebFile.of("index.html", b"<!doctype html>", is_packed=False)


def test_a_packed_file_goes_out_as_the_client_can_read_it() -> None:
    packed = PACKED.response(Headers({"accept-encoding": "gzip"}))
    plain = PACKED.response(Headers())
    assert isinstance(packed.body, bytes)
    assert gzip.decompress(packed.body) == plain.body == b"code"
    assert PACKED.response(Headers()).body is plain.body, "it is not unpacked again"
    assert packed.header("content-encoding") == "gzip"
    assert plain.header("content-encoding") is None
    assert packed.header("vary") == plain.header("vary") == "accept-encoding"
    assert packed.header("etag") != plain.header("etag"), "they are two representations"


def test_files_say_how_long_they_are_kept_and_what_pages_may_do() -> None:
    assert "immutable" in (PACKED.response(Headers()).header("cache-control") or "")
    assert PLAIN.response(Headers()).header("cache-control") == "no-cache"
    policy = PLAIN.response(Headers()).header("content-security-policy") or ""
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy


def test_a_client_that_has_a_file_is_told_so_without_it() -> None:
    tag = PLAIN.response(Headers()).header("etag") or ""
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = PLAIN.response(Headers({"if-none-match": given}))
        assert (again.status, again.body, again.header("etag")) == (304, b"", tag)
    assert PLAIN.response(Headers({"if-none-match": '"other"'})).status == 200
    assert not has_tag("", tag)


def test_what_was_built_is_packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are found in quiltfn's package, wherever it is. `ui/build.py` writes them there."""
    monkeypatch.setattr(quiltfn, "__file__", str(tmp_path / "__init__.py"))
    assert (ROOT / "src" / "quiltfn" / "__init__.py").is_file()
    for directory in (web.DASHBOARD, web.DOCUMENTATION):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "index.html").write_text(directory)
        found = web.files.__wrapped__(directory)
        assert found["index.html"].response(Headers()).body == directory.encode()


async def test_where_it_was_not_built_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "files", lambda _: {})
    asked: Any = SimpleNamespace(headers=Headers(), parameters={"file": "main.js"})
    for handler in (web.get_dashboard, web.get_dashboard_file):
        with pytest.raises(NotFound, match="the dashboard was not built"):
            await handler(asked)
    asked = SimpleNamespace(headers=Headers(), parameters={"path": ""})
    with pytest.raises(NotFound, match="the documentation was not built"):
        await web.get_documentation(asked)


async def test_pages_are_found_by_name_and_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        name: WebFile.of(name, name.encode(), is_packed=False)
        for name in ("index.html", "api/index.html", "how-to/keys.html")
    }
    monkeypatch.setattr(web, "files", lambda _: known)

    async def get(path: str) -> Any:
        asked: Any = SimpleNamespace(headers=Headers(), parameters={"path": path})
        return await web.get_documentation(asked)

    for path, name in (("", "index.html"), ("api/", "api/index.html"), ("how-to/keys.html",) * 2):
        assert (await get(path)).body == name.encode()
    led = await get("api")
    assert (led.status, led.header("location")) == (302, "api/")
    for path in ("how-to", "how-to/", "keys.html", "/index.html", "../index.html", "index.html/"):
        with pytest.raises(NotFound, match="no such page"):
            await get(path)


# The build -----------------------------------------------------------------------------------


@pytest.fixture
def build() -> dict[str, Any]:
    """The definitions of ui/build.py."""
    return runpy.run_path(str(ROOT / "ui" / "build.py"))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the dashboard's sources, without libraries."""
    ignored = shutil.ignore_patterns("node_modules", ".build")
    shutil.copytree(ROOT / "ui", tmp_path / "ui", ignore=ignored)
    (tmp_path / "src" / "quiltfn").mkdir(parents=True)
    return tmp_path


def test_what_was_built_is_current_until_edited(build: dict[str, Any], sources: Path) -> None:
    assert not build["is_current"](sources)
    made = sources / build["WEB"] / build["MADE_OF"]
    made.parent.mkdir()
    made.write_text(build["made_of"](sources))
    assert build["is_current"](sources)
    build["build"](sources)  # nothing has changed, so neither deno nor the network is needed
    (sources / "ui" / "README.md").write_text("a page about it")
    assert build["is_current"](sources)
    (sources / "ui" / "src" / "html.ts").rename(sources / "ui" / "src" / "markup.ts")
    assert not build["is_current"](sources)


def test_without_deno_the_build_says_so_and_what_was_there_stays(
    build: dict[str, Any], sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sources / build["WEB"] / "index.html"
    before.parent.mkdir()
    before.write_text("before")
    monkeypatch.setenv("PATH", str(sources))
    with pytest.raises(build["BuildFailed"], match="there is no deno"):
        build["build"](sources)
    assert before.read_text() == "before"


def test_the_lock_names_no_host() -> None:
    assert "://" not in (ROOT / "ui" / "deno.lock").read_text()


@pytest.mark.skipif(
    not web.files(web.DASHBOARD), reason="the dashboard was not built: see scripts/setup"
)
def test_the_page_asks_for_files_that_are_there_and_for_nothing_else() -> None:
    files = web.files(web.DASHBOARD)
    page = files["index.html"].content.decode()
    named = {
        part.partition('"')[0]
        for part in page.split('"')[1:]
        if part.endswith((".js", ".css", ".svg"))
    }
    assert named
    assert named <= files.keys()
    assert "style=" not in page
    assert "preact 11" in files["LICENSES.txt"].content.decode()


@promise("A51")
@pytest.mark.skipif(not (ROOT / "ui" / "node_modules").exists(), reason="deno did not install")
def test_two_builds_are_identical(build: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        out = tmp_path / name
        out.mkdir()
        build["bundle"](ROOT / "ui", out)
        found.append({one.name: one.read_bytes() for one in out.iterdir()})
    assert found[0] == found[1]
    assert os.fsencode(str(ROOT)) not in b"".join(found[0].values()), "no path of this machine"
