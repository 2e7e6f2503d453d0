"""Runtimes over HTTP: permissions, what versions keep of them, and what happens to images."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.server import Server, quiltfn, until, watched
from promises import promise
from spec.api_client import Api, Wire, is_error, new_name, of, raw, request, statuses
from spec.conftest import Keyed
from unit.sample_archives import a_wheel, file, good, link, packed, pressed

pytestmark = pytest.mark.sandbox
RUNTIMES = "/api/runtimes"
TAR = {"Content-Type": "application/x-tar"}
GZIP = {"Content-Type": "application/gzip"}
SHAPE = [
    *("name", "id", "kind", "image", "base_image", "interpreter", "image_digest", "command"),
    *("environment", "isolation"),
    *("network", "writable_paths", "built_in", "shared", "created_at"),
    *("process_limit", "tmp_limit_mb", "file_limit_mb", "open_files_limit"),
    *("packages", "packages_key"),
]


@pytest.fixture
def operator(keyed: Keyed) -> Iterator[Api]:
    """An operator whose tenant only this test uses."""
    api = keyed.caller(new_name(), "operator")
    yield api
    api.clear()


def upload(api: Api, data: bytes, status: int = 201, headers: dict[str, str] = TAR) -> str:
    return api.good("POST", f"{RUNTIMES}/images", status=status, content=data, headers=headers)[
        "digest"
    ]


def saying(word: str) -> bytes:
    return packed([file("word", word.encode())])


def add(api: Api, name: str, status: int = 201, **fields: Any) -> dict[str, Any]:
    return api.good("POST", RUNTIMES, {"name": name, "kind": "shell"} | fields, status)


# Permissions and responses -------------------------------------------------------------------


def test_the_servers_own_are_there_and_stay(operator: Api) -> None:
    runtimes = operator.good("GET", RUNTIMES)["runtimes"]
    assert runtimes[0]["name"] in ("node", "python", "shell")
    shell = operator.good("GET", f"{RUNTIMES}/shell")
    assert shell in runtimes
    assert list(shell) == SHAPE
    assert (shell["built_in"], shell["image"], shell["isolation"]) == (True, None, "crun")
    assert shell["shared"]
    assert shell["image_digest"].startswith("host:")
    operator.refused("CONFLICT", 409, "POST", RUNTIMES, {"name": "shell", "kind": "shell"})
    operator.refused("CONFLICT", 409, "DELETE", f"{RUNTIMES}/shell")
    operator.refused("NOT_FOUND", 404, "GET", f"{RUNTIMES}/nobody")
    operator.refused("NOT_FOUND", 404, "DELETE", f"{RUNTIMES}/nobody")


@promise("R22")
def test_what_a_replaced_runtime_has_not_reached_yet_is_listed(operator: Api) -> None:
    name, path = new_name(), "/api/functions"
    first, second = upload(operator, saying("1")), upload(operator, saying("2"))

    def listed(query: str) -> list[str]:
        found = operator.good("GET", f"{path}?{query}&sort=name")["functions"]
        return [one["name"] for one in found]

    add(operator, name, image=first)
    made = []
    for each, runtime in (("a", name), ("b", name), ("c", "shell")):
        body = {"name": f"{name}-{each}", "handler": "cat word", "runtime": runtime}
        made.append(operator.good("POST", path, body, 201)["function_id"])
    names = [f"{name}-{each}" for each in "abc"]
    assert (listed("outdated=true"), listed("outdated=false")) == ([], names)
    add(operator, name, image=second)
    assert (listed("outdated=true"), listed("outdated=false")) == (names[:2], names[2:])
    assert listed("outdated=true&view=brief&limit=1") == names[:1]
    outdated = [operator.good("GET", f"{path}/{one}").get("runtime_outdated") for one in made]
    assert outdated == [True, True, None]
    operator.good("PUT", f"{path}/{made[0]}", {"memory_limit_mb": 300})
    assert listed("outdated=true") == names[1:2]
    add(operator, name, image=first)  # a and b now have the same image, so only a is outdated
    assert listed("outdated=true") == names[:1]
    operator.good("DELETE", f"{RUNTIMES}/{name}", status=204)
    assert listed("outdated=true") == [], "there is nothing to update to"
    operator.refused("UNPROCESSABLE_ENTITY", 422, "GET", f"{path}?outdated=yes")


@promise("R8")
@pytest.mark.parametrize("scope", ["write", "admin"])
def test_only_an_operator_changes_shared_runtimes(operator: Api, keyed: Keyed, scope: str) -> None:
    caller, name = keyed.caller(new_name(), scope), new_name()
    body = {"name": name, "kind": "shell", "shared": True}
    caller.refused("FORBIDDEN", 403, "POST", RUNTIMES, body)
    operator.refused("NOT_FOUND", 404, "GET", f"{RUNTIMES}/{name}")
    assert add(operator, name, shared=True)["shared"]
    caller.refused("FORBIDDEN", 403, "DELETE", f"{RUNTIMES}/{name}?shared=true")
    caller.refused("CONFLICT", 409, "DELETE", f"{RUNTIMES}/{name}")
    caller.refused("UNPROCESSABLE_ENTITY", 422, "DELETE", f"{RUNTIMES}/{name}?shared=yes")
    assert caller.good("GET", f"{RUNTIMES}/{name}")["shared"]
    operator.good("DELETE", f"{RUNTIMES}/{name}?shared=true", status=204)
    caller.refused("NOT_FOUND", 404, "GET", f"{RUNTIMES}/{name}")


@promise("A25")
def test_a_tenant_makes_runtimes_of_its_own_which_exist_for_nobody_else(keyed: Keyed) -> None:
    mine, theirs = (keyed.caller(new_name(), "write") for _ in range(2))
    name = new_name()
    try:
        secret = {"TOKEN": "mine-alone"}
        digest = upload(mine, saying(name))
        assert not add(mine, name, image=digest, environment=secret)["shared"]
        assert mine.invoke(mine.active("cat /app/word", runtime=name))["stdout"] == name
        # The other tenant gets the same error for this name as for a missing one, in every request.
        for unknown in (name, new_name()):
            theirs.refused("NOT_FOUND", 404, "GET", f"{RUNTIMES}/{unknown}")
            theirs.refused("NOT_FOUND", 404, "DELETE", f"{RUNTIMES}/{unknown}")
            body = {"name": new_name(), "handler": "true", "runtime": unknown}
            error = theirs.refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/functions", body)
            assert error["error"].startswith("runtime must be one of: ")
            assert name not in error["error"]
        assert name not in {one["name"] for one in theirs.good("GET", RUNTIMES)["runtimes"]}
        # The other tenant cannot get the files by their digest, or learn that they were uploaded.
        errors = [
            theirs.refused("UNPROCESSABLE_ENTITY", 422, "POST", RUNTIMES, body)["error"]
            for body in (
                {"name": name, "kind": "shell", "image": image} for image in (digest, "ab" * 32)
            )
        ]
        assert errors[0] == errors[1]
        assert upload(theirs, saying(name), 201) == digest
        assert upload(theirs, saying(name), 200) == digest
        # Now the other tenant has a runtime and files of its own with this name.
        add(theirs, name, image=digest)
        assert theirs.invoke(theirs.active("cat /app/word; env", runtime=name))["stdout"] != name
        theirs.good("DELETE", f"{RUNTIMES}/{name}", status=204)
        assert mine.good("GET", f"{RUNTIMES}/{name}")["environment"] == secret
    finally:
        mine.clear()
        theirs.clear()


def test_everything_set_is_shown_and_secrets_to_writers_only(operator: Api, keyed: Keyed) -> None:
    digest, name = upload(operator, good(), 201), new_name()
    said = {
        "shared": True,
        "kind": "custom",
        "image": digest,
        "command": ["/app/bin/run", "-v"],
        "environment": {"TOKEN": "hidden-from-readers"},
        "network": "egress",
        "writable_paths": ["/data"],
        "process_limit": 100,
        "tmp_limit_mb": 32,
        "file_limit_mb": 16,
        "open_files_limit": 256,
    }
    added = add(operator, name, **said)  # type: ignore[arg-type]
    assert added.items() >= said.items()
    assert added["image_digest"] == f"sha256:{digest}"
    assert not added["built_in"]
    assert add(operator, name, 200, **said) == added, "the same again is what is there"
    hidden = {"environment": {"TOKEN": "***"}}
    for scope in ("read", "write", "admin"):
        caller = keyed.caller(new_name(), scope)
        seen = caller.good("GET", f"{RUNTIMES}/{name}")
        assert seen == added | hidden, "shared: an operator's to see"
        assert seen in caller.good("GET", RUNTIMES)["runtimes"]
    operator.good("DELETE", f"{RUNTIMES}/{name}?shared=true", status=204)
    operator.refused("NOT_FOUND", 404, "GET", f"{RUNTIMES}/{name}")
    # The values of a tenant's own runtime are visible to those who may write in the tenant.
    tenant = new_name()
    own = add(keyed.caller(tenant, "write"), name, environment=said["environment"])
    for scope, shown in (("read", hidden), ("invoke", hidden), ("write", {})):
        assert keyed.caller(tenant, scope).good("GET", f"{RUNTIMES}/{name}") == own | shown


# Images --------------------------------------------------------------------------------------


def test_an_image_is_answered_for_once_however_it_comes(operator: Api) -> None:
    content = new_name()
    first = operator.good(
        "POST", f"{RUNTIMES}/images", status=201, content=saying(content), headers=TAR
    )
    assert first.keys() == {"digest", "files", "size_bytes", "environment", "interpreters"}
    assert (first["files"], first["size_bytes"]) == (1, len(content))
    for data, headers in ((saying(content), TAR), (pressed(saying(content)), GZIP)):
        assert upload(operator, data, 200, headers) == first["digest"]


def test_an_image_that_is_refused_says_why(operator: Api, keyed: Keyed) -> None:
    path = f"{RUNTIMES}/images"
    for data, why in (
        (packed([file("../x")]), "has a .. in its path"),
        (packed([link("dev", "/dev")]), "link that leads outside"),
        (b"", "is truncated"),
        (b"no archive" * 1000, "not a tar archive"),
    ):
        answer = operator("POST", path, content=data, headers=TAR)
        assert why in is_error(answer, "UNPROCESSABLE_ENTITY", 422)["error"]
    for kind in ("application/json", "application/zip", "text/plain", "application/x-tar2", ""):
        answer = operator("POST", path, content=good(), headers={"Content-Type": kind})
        is_error(answer, "UNSUPPORTED_MEDIA_TYPE", 415)
    coded = TAR | {"Content-Encoding": "gzip"}
    answer = operator("POST", path, content=pressed(good()), headers=coded)
    is_error(answer, "UNSUPPORTED_MEDIA_TYPE", 415)
    operator.refused("METHOD_NOT_ALLOWED", 405, "GET", path)
    names = [one.name for one in (keyed.server.data_dir / "images").iterdir()]
    assert all(len(name) == 64 for name in names), names


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """A server that refuses long uploads, and ends those that stall."""
    with watched("--image-upload-max-bytes 100000 --body-timeout-s 1") as server:
        yield server.start()


def test_an_upload_is_bounded_with_or_without_length(strict: Server) -> None:
    server = strict
    api, path = Api(server.url), f"{RUNTIMES}/images"
    long = packed([file("a", b"x" * 100_000)])
    error = is_error(api("POST", path, content=long, headers=TAR), "PAYLOAD_TOO_LARGE", 413)
    assert "image_upload_max_bytes" in error["hint"]

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(long), 10_000):
            yield long[at : at + 10_000]

    is_error(api("POST", path, content=pieces(), headers=TAR), "PAYLOAD_TOO_LARGE", 413)
    assert list((server.data_dir / "images").iterdir()) == []
    assert upload(api, packed([file("a", b"x" * 80_000)]))


def test_an_upload_that_ends_early_leaves_nothing_behind(strict: Server) -> None:
    server = strict
    there = list((server.data_dir / "images").iterdir())
    head = request("POST", f"{RUNTIMES}/images", TAR | {"Content-Length": "100000"})
    wire = Wire(server.url)
    wire.send(head + good()[:3000]).close()
    # This client stays connected, but sends nothing more.
    answer = raw(server.url, head + good()[:3000], timeout_s=5)
    assert statuses(answer) == [400]
    assert b"nothing more of the body arrived within 1 s" in answer
    assert list((server.data_dir / "images").iterdir()) == there
    assert "Traceback" not in server.log.read_text()
    assert upload(Api(server.url), good())


def test_the_command_makes_the_same_runtime(
    open_server: Server, anybody: Api, tmp_path: Path
) -> None:
    server, api = open_server, anybody
    if "python" not in api.good("GET", "/api/system/info")["interpreters"]:
        pytest.skip("needs a Python in /usr")
    app = tmp_path / "app"
    app.mkdir()
    (app / "app.py").write_text(
        "import demo, sys\n"
        "def main(event): return [demo.WORD, event, demo.__cached__, sys.dont_write_bytecode]\n"
    )
    (app / "requirements.txt").write_text(f"{a_wheel(tmp_path)}\n")
    environment = os.environ | {"QUILT_BASE_URL": server.url, "UV_OFFLINE": "1"}
    words = ["runtimes", "add", "etl", "--kind", "python", "--dir", str(app)]
    done = quiltfn(*words, env=environment)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("etl is python: sha256:")
    answer = api.invoke(api.active("app:main", runtime="etl"), '{"a": 1}')
    assert json.loads(answer["stdout"])[:2] == ["from the wheel", {"a": 1}], answer
    assert quiltfn(*words, env=environment).stdout == done.stdout, "the same tree, the same runtime"


SERVER_OF_BOTH = """
import demo, http.server, os, subprocess

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        node = ["node", "-p", "require('dep')"]
        word = subprocess.run(node, check=True, capture_output=True, text=True).stdout
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{demo.WORD}, {word}".encode())

http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


@promise("R27")
@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_a_server_has_packages_in_both(open_server: Server, anybody: Api, tmp_path: Path) -> None:
    server, api = open_server, anybody
    if not {"python", "node"} <= set(api.good("GET", "/api/system/info")["interpreters"]):
        pytest.skip("needs a Python and a Node in /usr")
    app = tmp_path / "app"
    (app / "dep").mkdir(parents=True)
    (app / "server.py").write_text(SERVER_OF_BOTH)
    (app / "requirements.txt").write_text(f"{a_wheel(tmp_path)}\n")
    (app / "package.json").write_text('{"dependencies": {"dep": "file:./dep"}}')
    (app / "dep/package.json").write_text('{"name": "dep", "version": "1.0.0"}')
    (app / "dep/index.js").write_text("module.exports = 'from npm'")
    environment = os.environ | {"QUILT_BASE_URL": server.url, "UV_OFFLINE": "1"}
    done = quiltfn(
        "runtimes", "add", "both", "--kind", "server", "--dir", str(app), env=environment
    )
    assert done.code == 0, done.stderr
    both = {"runtime": "both", "cleanup_on_exit": False}
    answer = api.invoke(api.active("exec python3 server.py", **both), "{}")
    assert answer["stdout"] == "from the wheel, from npm\n", answer
    listed = api.good("GET", f"{RUNTIMES}/both/packages")["packages"]
    assert [one["name"] for one in listed] == ["demo"], "links are not followed"


# What a version keeps of its runtime ---------------------------------------------------------


@promise("R1")
def test_a_version_goes_on_with_the_files_it_was_made_with(operator: Api) -> None:
    name = new_name()
    add(operator, name, image=upload(operator, saying("old")))
    function = operator.active("cat /app/word", runtime=name)
    assert operator.invoke(function)["stdout"] == "old"

    # The runtime gets other files: existing versions keep theirs.
    new = upload(operator, saying("new"))
    add(operator, name, image=new)
    assert operator.invoke(function)["stdout"] == "old"

    # An update uses the present runtime of this name; a rollback returns to the former one.
    operator.good("PUT", of(function), {"description": "another"})
    operator.heard()
    assert operator.invoke(function)["stdout"] == "new"
    operator.good("POST", f"{of(function)}/rollback", {"version": 1})
    operator.heard()
    assert operator.invoke(function)["stdout"] == "old"
    versions = operator.good("GET", f"{of(function)}/versions")["versions"]
    assert versions[0]["image_digest"] == f"sha256:{new}"
    assert versions[1]["image_digest"] != versions[0]["image_digest"]

    # The runtime is removed: existing versions are unaffected.
    operator.good("DELETE", f"{RUNTIMES}/{name}", status=204)
    assert operator.invoke(function)["stdout"] == "old"
    operator.good("POST", f"{of(function)}/pause")
    operator.good("POST", f"{of(function)}/resume")
    operator.heard()
    assert operator.invoke(function)["stdout"] == "old"
    body = {"name": new_name(), "handler": "true", "runtime": name}
    error = operator.refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/functions", body)
    assert error["error"].startswith("runtime must be one of: ")
    error = operator.refused("UNPROCESSABLE_ENTITY", 422, "PUT", of(function), {"description": "x"})
    assert error["error"].startswith("runtime must be one of: ")
    assert error["error"].endswith(f"; the function names {name}, which was removed")
    assert f"add {name} again" in error["hint"]


@promise("R6", "R27")
def test_an_image_that_nothing_names_is_collected(another: Callable[..., Server]) -> None:
    server = another("--image-grace-s 3 --prewarmed 0").start()
    api, images = Api(server.url), server.data_dir / "images"
    kept, below = (upload(api, saying(word)) for word in ("kept", "below"))
    add(api, "kept", image=kept, packages=below)
    function = api.active("cat /app/word", runtime="kept")
    named, unused = (upload(api, saying(word)) for word in ("named", "unused"))
    add(api, "named", image=named)
    api.good("DELETE", f"{RUNTIMES}/kept", status=204)
    until(lambda: {one.name for one in images.iterdir()} == {kept, named, below})
    body = {"name": "late", "kind": "shell", "image": unused}
    assert api.refused("UNPROCESSABLE_ENTITY", 422, "POST", RUNTIMES, body)["error"].startswith(
        "image must be the digest of a stored image"
    )
    assert api.invoke(function)["stdout"] == "kept"
    api.good("DELETE", of(function), status=204)
    api.good("DELETE", f"{RUNTIMES}/named", status=204)
    until(lambda: not list(images.iterdir()))

    # The same files are uploaded again: the launcher must not mount the directory that was removed.
    add(api, "again", image=upload(api, saying("kept")))
    assert api.invoke(api.active("cat /app/word", runtime="again"))["stdout"] == "kept"


@promise("R27")
def test_packages_are_files_below_those_of_the_image(tenant: Api) -> None:
    own = {"word": b"mine", "site-packages/own.py": b""}
    below = {"word": b"theirs", "site-packages/lib.py": b"", "deep/er": b"x"}
    code, packages = (
        upload(tenant, packed([file(path, content) for path, content in one.items()]))
        for one in (own, below)
    )
    name = new_name()
    added = add(tenant, name, image=code, packages=packages, packages_key="python:1")
    assert (added["packages"], added["packages_key"]) == (packages, "python:1")
    assert added["image_digest"] == f"sha256:{code}+{packages}"
    function = tenant.active("cd /app; cat word; echo; ls site-packages; cat deep/er", runtime=name)
    assert tenant.invoke(function)["stdout"] == "mine\nlib.py\nown.py\nx"
    wanted = ["deep/er", "site-packages/lib.py", "site-packages/own.py", "word"]
    pages = tenant.pages(f"{RUNTIMES}/{name}/files?limit=1", "files")
    assert [one["path"] for (one,) in pages] == wanted
    files = f"{of(function)}/versions/1/files"
    assert [one["path"] for one in tenant.good("GET", files)["files"]] == wanted
    assert tenant("GET", f"{files}/word").content == b"mine"
    assert tenant("GET", f"{files}/deep/er").content == b"x"
    alone = new_name()
    add(tenant, alone, packages=packages)
    assert tenant.invoke(tenant.active("cat /app/word", runtime=alone))["stdout"] == "theirs"


@promise("R8")
def test_every_change_is_audited(operator: Api, keyed: Keyed) -> None:
    name = new_name()
    digest = upload(operator, saying(name))
    add(operator, name, image=digest, environment={"TOKEN": "never-in-the-audit"})
    operator.good("DELETE", f"{RUNTIMES}/{name}", status=204)
    is_error(operator("POST", f"{RUNTIMES}/images", content=b"x", headers=TAR),
             "UNPROCESSABLE_ENTITY", 422)  # fmt: skip
    entries = keyed.operator.good("GET", "/api/audit?limit=4")["entries"]
    seen = [(one["action"], one["object_id"], one["status"]) for one in entries]
    assert seen == [
        ("image.upload", None, 422),
        ("runtime.remove", name, 204),
        ("runtime.add", name, 201),
        ("image.upload", digest, 201),
    ]
    assert "never-in-the-audit" not in str(entries)
