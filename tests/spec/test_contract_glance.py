"""The contract, overview: invocations of all functions, files of runtimes, the audit log, and
compression of long responses.
"""

import gzip
import io
import json
import tarfile
import time
from typing import Any

import httpx
import pytest

from e2e.server import Server, quiltfn
from promises import promise
from spec.api_client import Api, make_key, new_name, of
from spec.conftest import Keyed

pytestmark = pytest.mark.sandbox
CALLS = "/api/invocations"
FUNCTIONS = "/api/functions"
KEYS = [
    *("invocation_id", "function_id", "function_name", "execution_node_id", "status"),
    *("started_at", "ended_at", "duration_ms", "exit_code", "error_message", "cold_start"),
    *("version", "source", "attempt", "due_at", "parent_invocation_id", "origin_invocation_id"),
    *("http_status", "end_cause"),
]


def ids(answer: dict[str, Any]) -> list[str]:
    return [one["invocation_id"] for one in answer["invocations"]]


@promise("A61")
@pytest.mark.one_server("another node has a cold start of its own")
def test_calls_of_all_functions_by_every_filter(tenant: Api) -> None:
    began = int(time.time())
    first = tenant.active("exit ${QUILT_PAYLOAD:-0}")
    other = tenant.active("sleep ${QUILT_PAYLOAD:-0}")
    made = [tenant.invoke(first, "0"), tenant.invoke(first, "3"), tenant.invoke(other, "0.2")]
    tenant.good("PUT", of(first), {"handler": "echo second"})
    made.append(tenant.invoke(first))
    queued = tenant.good("POST", f"{of(other)}/invoke?mode=async&delay_seconds=600", {}, 202)
    expected = [call["invocation_id"] for call in [*made, queued]]

    whole = tenant.good("GET", CALLS)
    assert list(whole) == ["invocations", "next_cursor"]
    assert (ids(whole), whole["next_cursor"]) == (expected[::-1], None)
    assert list(whole["invocations"][0]) == KEYS
    assert (whole["invocations"][0]["status"], whole["invocations"][0]["source"]) == (
        "queued",
        "async",
    )
    for query, found in (
        (f"function_id={first}", [3, 1, 0]),
        ("status=failed", [1]),
        ("status=queued", [4]),
        ("status=success", [3, 2, 0]),
        ("min_duration_ms=200", [2]),
        ("source=async", [4]),
        ("source=sync", [3, 2, 1, 0]),
        ("version=2", [3]),
        (f"version=1&function_id={first}", [1, 0]),
        ("cold_start=true", []),
        (f"from={began}&to={began + 3600}", [4, 3, 2, 1, 0]),
        (f"to={began}", []),
        (f"from={began + 3600}", []),
    ):
        listed = ids(tenant.good("GET", f"{CALLS}?{query}"))
        assert listed == [expected[number] for number in found], query
    pages = tenant.pages(f"{CALLS}?limit=2", "invocations")
    assert [one["invocation_id"] for page in pages for one in page] == expected[::-1]
    tenant.good("POST", f"{of(other)}/invocations/{queued['invocation_id']}/cancel")


# Runtimes ----------------------------------------------------------------------------------------


def archive(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return packed.getvalue()


@promise("A64")
def test_the_files_and_packages_of_a_runtime(tenant: Api, keyed: Keyed) -> None:
    files = {
        "main.sh": "echo main",
        "lib/a": "12345",
        "requests-2.32.3.dist-info/METADATA": "Name: requests\nVersion: 2.32.3\n",
        "node_modules/left-pad/package.json": '{"name":"left-pad","version":"1.3.0"}',
    }
    kind = {"Content-Type": "application/x-tar"}
    image = tenant("POST", "/api/runtimes/images", content=archive(files), headers=kind).json()
    body = {"name": "looked-into", "kind": "shell", "image": image["digest"]}
    tenant.good("POST", "/api/runtimes", body, 201)
    path = "/api/runtimes/looked-into"
    page = tenant.good("GET", f"{path}/files")
    assert page["next_cursor"] is None
    assert {one["path"]: one["size_bytes"] for one in page["files"]} == {
        name: len(text) for name, text in files.items()
    }
    assert tenant.pages(f"{path}/files?limit=3", "files") == [page["files"][:3], page["files"][3:]]
    assert tenant.good("GET", f"{path}/packages") == {
        "packages": [
            {"kind": "node", "name": "left-pad", "version": "1.3.0"},
            {"kind": "python", "name": "requests", "version": "2.32.3"},
        ],
        "is_complete": True,
    }
    assert tenant.good("GET", "/api/runtimes/shell/files")["files"] == []
    stranger = keyed.caller(new_name())
    for part in ("files", "packages"):
        stranger.refused("NOT_FOUND", 404, "GET", f"{path}/{part}")
    tenant.refused("UNPROCESSABLE_ENTITY", 422, "GET", f"{path}/files?cursor=%25")
    tenant.good("DELETE", path, status=204)


# Keys and the audit log --------------------------------------------------------------------------


@promise("A66")
def test_a_key_keeps_its_label(keyed: Keyed) -> None:
    tenant = new_name()
    made = keyed.key(tenant, "admin", label="nightly build ä")
    assert made["label"] == "nightly build ä"
    admin = Api(keyed.server.url, made["key"])
    without = admin.good("POST", "/api/keys", {"scope": "read"}, 201)
    labels = {one["id"]: one["label"] for one in admin.good("GET", "/api/keys")["keys"]}
    assert labels == {made["id"]: "nightly build ä", without["id"]: None}
    for label in ("", "x" * 101, "two\nlines", "\u202e", 5):
        error = admin.refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/keys", {"label": label})
        assert "label" in error["error"]
    by_command = make_key(keyed.server, "--tenant", tenant, "--scope", "read", "--label", "by hand")
    assert by_command["label"] == "by hand"
    listed = quiltfn("keys", "list", *keyed.server.key_options).stdout
    assert any(by_command["id"] in one and "by hand" in one for one in listed.splitlines())


@promise("A66")
def test_the_audit_log_by_filters(tenant: Api, keyed: Keyed) -> None:
    began = int(time.time())
    function_id = tenant.create()
    other = tenant.create()
    tenant.good("PUT", of(function_id), {"handler": "echo two"})
    me = tenant.good("GET", "/api/whoami")
    writer = keyed.key(me["tenant_id"], "write")
    Api(keyed.server.url, writer["key"]).good("DELETE", of(other), status=204)

    def found(query: str) -> list[tuple[str, str]]:
        entries = tenant.good("GET", f"/api/audit?{query}")["entries"]
        return [(one["action"], one["object_id"]) for one in entries]

    created = [("function.create", other), ("function.create", function_id)]
    assert found("action=function.create") == created
    assert found(f"action=function&credential={writer['id']}") == [("function.delete", other)]
    assert found(f"object_id={function_id}") == [("function.update", function_id), created[1]]
    assert len(found(f"action=function&from={began}")) == 4
    assert found(f"to={began - 60}") == []
    assert found("action=func") == []


# Compression -------------------------------------------------------------------------------------


def sent(api: Api, path: str, accept: str, method: str = "GET") -> tuple[dict[str, str], bytes]:
    """The headers of a response, and its body as it was sent, without decompression."""
    headers = {"Accept-Encoding": accept, "X-Api-Key": str(api.key)}
    with (
        httpx.Client() as client,
        client.stream(method, api.http.base_url.join(path), headers=headers) as answer,
    ):
        return dict(answer.headers), b"".join(answer.iter_raw())


@promise("A65")
def test_long_answers_are_compressed_for_those_who_ask(tenant: Api) -> None:
    function_id = tenant.active(f"echo {'long ' * 1000}")
    tenant.invoke(function_id)
    for path in ("/openapi.json", FUNCTIONS, f"{of(function_id)}/invocations"):
        _, whole = sent(tenant, path, "identity")
        headers, packed = sent(tenant, path, "gzip, br")
        assert (headers["content-encoding"], headers["vary"]) == ("gzip", "accept-encoding")
        assert int(headers["content-length"]) == len(packed) < len(whole)
        assert gzip.decompress(packed) == whole
        assert json.loads(whole)
    headers, body = sent(tenant, "/openapi.json", "gzip", "HEAD")
    assert (headers["content-encoding"], body) == ("gzip", b"")


def test_calls_octets_and_short_answers_are_never_compressed(tenant: Api) -> None:
    function_id = tenant.active(f"echo {'long ' * 1000}")
    record = tenant.invoke(function_id)
    call = f"{of(function_id)}/invocations/{record['invocation_id']}"
    for method, path in (
        ("POST", f"{of(function_id)}/invoke"),
        ("GET", f"{call}/output"),
        ("GET", of(function_id)),
        ("GET", "/health"),
    ):
        headers, body = sent(tenant, path, "gzip", method)
        assert "content-encoding" not in headers, path
        assert body


@promise("A76")
def test_a_version_keeps_its_files(tenant: Api, open_server: Server, anybody: Api) -> None:
    kind = {"Content-Type": "application/x-tar"}

    def runtime(of: Api, name: str, files: dict[str, str]) -> None:
        image = of("POST", "/api/runtimes/images", content=archive(files), headers=kind).json()
        of.good(
            "POST", "/api/runtimes", {"name": name, "kind": "shell", "image": image["digest"]}, 201
        )

    runtime(tenant, "of-versions", {"main.sh": "echo one", "lib/a b": "x" * 1000})
    function_id = tenant.create("sh main.sh", runtime="of-versions")
    tenant.good("DELETE", "/api/runtimes/of-versions", status=204)
    runtime(tenant, "of-versions", {"main.sh": "echo two"})
    tenant.good("PUT", of(function_id), {"runtime": "of-versions"})
    first, second = (f"{of(function_id)}/versions/{number}/files" for number in (1, 2))
    paths = [one["path"] for one in tenant.good("GET", first)["files"]]
    assert paths == ["lib/a b", "main.sh"]
    assert tenant("GET", f"{first}/main.sh").content == b"echo one"
    assert tenant("GET", f"{second}/main.sh").content == b"echo two"
    part = tenant("GET", f"{first}/lib/a%20b", headers={"Range": "bytes=990-"})
    assert (part.status_code, part.content) == (206, b"x" * 10)
    assert part.headers["content-range"] == "bytes 990-999/1000"
    for gone in ("lib", "lib/", "none", "../main.sh", "%2e%2e/main.sh", "main.sh/x", "a" * 300):
        tenant.refused("NOT_FOUND", 404, "GET", f"{first}/{gone}")
    tenant.refused("NOT_FOUND", 404, "GET", f"{of(function_id)}/versions/3/files")
    tenant.refused("UNPROCESSABLE_ENTITY", 422, "GET", f"{of(function_id)}/versions/x/files")
    plain = tenant.create("echo")
    assert tenant.good("GET", f"{of(plain)}/versions/1/files")["files"] == []
    tenant.refused("NOT_FOUND", 404, "GET", f"{of(plain)}/versions/1/files/main.sh")

    runtime(anybody, "of-cli", {"main.sh": "echo from the command line"})
    anybody.create("sh main.sh", runtime="of-cli", name="with-files")
    to = ("with-files", "--url", open_server.url)
    assert "main.sh" in quiltfn("functions", "files", *to).stdout
    shown = quiltfn("functions", "file", "with-files", "main.sh", *to[1:]).stdout
    assert shown == "echo from the command line"


# The command line --------------------------------------------------------------------------------


def test_the_command_line_looks_around(open_server: Server, anybody: Api) -> None:
    function_id = anybody.active("exit 3", name="looked-at", description="Sends invoices")
    call = anybody.invoke(function_id)["invocation_id"]
    to = ("--url", open_server.url)

    def output(*words: str) -> str:
        done = quiltfn(*words, *to)
        assert done.code == 0, done.stderr
        return done.stdout + done.stderr

    assert "default" in output("whoami")
    listed = output("functions", "list", "--search", "INVOICE", "--sort", "name", "--order", "desc")
    assert "looked-at" in listed
    assert call in output("invocations", "--function", "looked-at", "--status", "failed")
    assert call in output("invocations", "--since", "10m", "--source", "sync", "--version", "1")
    assert "no invocations" in output(
        "invocations", "--function", "looked-at", "--status", "success"
    )
    assert "looked-at" in output("instances", "--function", "looked-at")
    assert "MiB" in output("instances", "--limit", "1")
    assert "kernel" in output("info", "--findings")
    changed = output("audit", "--action", "function", "--object", function_id, "--since", "10m")
    assert "function.deploy" in changed
    assert "function.create" in changed
    assert "no entries" in output("audit", "--credential", "none-such")
    assert "no files" in output("runtimes", "files", "shell")
    assert "no packages" in output("runtimes", "packages", "shell")
