"""Requests that the launcher accepts from the server: exactly its verbs, and nothing malformed."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.launcher.cgroups import Limits, SandboxLimits
from quiltfn.launcher.verbs import ON_SANDBOX, Create, Limit, OnSandbox, Refused, SetDeadline, parse
from quiltfn.model.runtime import FIXED_TREES

MEMORY_MAX, CORES = 4096, 2
MOST = SandboxLimits(
    memory_mib=MEMORY_MAX,
    cpu_percent=100.0 * CORES,
    pids=1000,
    tmp_mib=2000,
    file_mib=3000,
    open_files=8000,
)
LIMITS = SandboxLimits(
    memory_mib=256, cpu_percent=25.5, pids=512, tmp_mib=500, file_mib=400, open_files=4096
)
ID = "0123456789abcdef01234567"
DIGEST = "0123456789abcdef" * 4
BASE = "cd" * 32
CREATE: dict[str, Any] = {
    "n": 1,
    "verb": "create",
    "memory_mib": 256,
    "cpu_percent": 25.5,
    "image": None,
    "base_image": None,
    "packages": None,
    "network": "none",
    "writable_paths": [],
    "isolation": "crun",
    "pids": LIMITS.pids,
    "tmp_mib": LIMITS.tmp_mib,
    "file_mib": LIMITS.file_mib,
    "open_files": LIMITS.open_files,
}
DESTROY: dict[str, Any] = {"n": 2, "verb": "destroy", "sandbox": ID}
LIMIT = DESTROY | {"verb": "limit", "memory_mib": 512, "cpu_percent": 50}


def ask(request: object) -> object:
    message = request if isinstance(request, bytes) else json.dumps(request).encode()
    return parse(message, most=MOST)


def test_the_verbs() -> None:
    assert ask(CREATE) == Create(1, LIMITS)
    everything = {"image": DIGEST, "network": "egress", "writable_paths": ["/data", "/var/cache"]}
    everything |= {"isolation": "gvisor", "base_image": BASE, "packages": "ef" * 32}
    assert ask(CREATE | everything) == Create(
        1, LIMITS, DIGEST, BASE, "egress", ("/data", "/var/cache"), "gvisor", packages="ef" * 32
    )
    assert ask(DESTROY) == OnSandbox(2, "destroy", ID)
    assert ask(DESTROY | {"verb": "kill"}) == OnSandbox(2, "kill", ID)
    assert ask(DESTROY | {"verb": "counters"}) == OnSandbox(2, "counters", ID)
    assert ask(LIMIT) == Limit(2, ID, Limits(memory_mib=512, cpu_percent=50.0))


def test_a_node_of_a_fleet_hands_deadlines_over() -> None:
    deadline = {"n": 1, "verb": "deadline", "deadline": 12.5}
    assert ask(deadline) == SetDeadline(1, 12.5)
    assert ask(CREATE | {"deadline": 12}) == Create(1, LIMITS, deadline=12.0)
    with pytest.raises(Refused, match="fields"):
        ask(deadline | {"sandbox": ID})


@pytest.mark.parametrize(
    "change",
    [
        *[{"sandbox": "../x"}, {"memory_mib": 0}, {"memory_mib": MEMORY_MAX + 1}, {"image": None}],
        *[{"cpu_percent": "50"}, {"cpu_percent": 100 * CORES + 1}],
    ],
)
def test_limits_that_are_none(change: dict[str, object]) -> None:
    with pytest.raises(Refused):
        ask(LIMIT | change)


BOUNDS = [("pids", 1000), ("tmp_mib", 2000), ("file_mib", 3000), ("open_files", 8000)]
BOUNDS += [("memory_mib", MEMORY_MAX), ("cpu_percent", 100 * CORES)]


@promise("R24")
@pytest.mark.parametrize(("name", "most"), BOUNDS)
def test_what_a_sandbox_may_use_is_within_the_operators_bounds(name: str, most: int) -> None:
    for value in (1, most):
        made = ask(CREATE | {name: value})
        assert isinstance(made, Create)
        room: dict[str, Any] = {name: value}
        assert made.limits == LIMITS.replace(**room)
    for wrong in (0, -1, most + 1, 0.5, True, "1", None):
        with pytest.raises(Refused, match=name):
            ask(CREATE | {name: wrong})


@pytest.mark.parametrize(
    "message", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'"create"', b"1", b"{}", b"[" * 30_000]
)
def test_what_is_no_request(message: bytes) -> None:
    with pytest.raises(Refused):
        ask(message)


IMAGES = ["", "..", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), f"../{DIGEST[3:]}", DIGEST + "\n"]
REFUSED: dict[str, list[object]] = {
    "n": [None, "1", 1.0, True, [], {}],
    "verb": ["Create", "run", "exec", "mount", "", None, 1, ["create"], {"create": 1}],
    "memory_mib": [0, -1, MEMORY_MAX + 1, 2**63, 256.0, 256.5, "256", True, None, [256], {}],
    "cpu_percent": [0, 0.99, -1, 100 * CORES + 0.1, 10**400, "50", True, None, [], {}],
    "deadline": [-1, 10**11, 10**400, float("nan"), "12", True, None, [], {}],
    **{name: [*IMAGES, 1, []] for name in ("image", "base_image", "packages")},
    "network": ["", "host", "None", "egress ", None, True, ["egress"], {}],
    "isolation": ["", "none", "runc", "GVISOR", None, True, ["gvisor"], {}],
    "writable_paths": [None, "/data", [1], ["data"], ["/"], ["/data/"], ["/data/.."], ["/../etc"],
                       ["/.guest"], ["/data\n"], ["/data dir"], ["/a,size=9g"], ["/a/b/c/d/e"],
                       [f"/d{n}" for n in range(9)]],
}  # fmt: skip
NAMED = set(REFUSED) - {"n", "verb", "writable_paths"}


@pytest.mark.parametrize(
    ("field", "value"), [(field, one) for field, values in REFUSED.items() for one in values]
)
def test_a_value_that_is_refused(field: str, value: object) -> None:
    deadline = {"n": 1, "verb": "deadline", "deadline": 12.5}
    for request in (CREATE | {"image": DIGEST, "deadline": 12}, DESTROY, deadline):
        if field in request:
            with pytest.raises(Refused, match=field if field in NAMED else None):
                ask(request | {field: value})


def test_packages_lie_below_an_image() -> None:
    with pytest.raises(Refused, match="packages require an image"):
        ask(CREATE | {"packages": DIGEST})


@pytest.mark.parametrize("path", FIXED_TREES)
def test_nothing_is_laid_over_what_a_sandbox_runs_with(path: str) -> None:
    for place in (path, f"{path}/below"):
        with pytest.raises(Refused, match="file system"):
            ask(CREATE | {"writable_paths": [place]})


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_in_json(word: str) -> None:
    message = json.dumps(CREATE).replace("25.5", word).encode()
    with pytest.raises(Refused):
        ask(message)


NO_IDS = ["", "..", "../../etc", ID[:-1], ID + "0", ID.upper(), ID + "\n", "\n" + ID,
          ID[:-1] + "\0", ID[:-1] + "٣", "x" + ID[1:], None, 1, [ID], {"id": ID}]  # fmt: skip


@pytest.mark.parametrize("sandbox", NO_IDS)
@pytest.mark.parametrize("verb", ["kill", "counters", "destroy"])
def test_an_id_that_is_none(verb: str, sandbox: object) -> None:
    with pytest.raises(Refused, match="sandbox"):
        ask({"n": 1, "verb": verb, "sandbox": sandbox})


@pytest.mark.parametrize("field", ["rootfs", "mounts", "uid", "processes", "args", "sandbox ", ""])
def test_a_field_that_is_not_known(field: str) -> None:
    for request in (CREATE, DESTROY):
        with pytest.raises(Refused, match="fields must be"):
            ask(request | {field: 1})


def test_a_field_that_is_missing() -> None:
    for request in (CREATE, DESTROY):
        for field in request:
            with pytest.raises(Refused):
                ask({name: value for name, value in request.items() if name != field})


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(message: bytes) -> None:
    with suppress(Refused):
        ask(message)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


def at_bounds(bound: tuple[str, int]) -> st.SearchStrategy[tuple[str, object]]:
    name, most = bound
    near = st.integers(-9, 9) | st.floats(-9, 9)
    return st.tuples(st.just(name), near | near.map(lambda number: most + number))


words = st.sampled_from(
    ["limit", "counters", "none", "gvisor", ID, DIGEST, ID + "/..", DIGEST + "x"]
)


@given(
    st.sampled_from([CREATE, LIMIT, DESTROY]),
    st.sampled_from(BOUNDS).flatmap(at_bounds)
    | st.tuples(st.sampled_from([*CREATE, "sandbox"]), words | json_values),
)
def test_whatever_is_accepted_is_within_bounds(
    valid: dict[str, object], change: tuple[str, object]
) -> None:
    """Valid requests with one change; many of them are accepted."""
    try:
        verb = ask(valid | dict([change]))
    except Refused:
        return
    match verb:
        case Create(limits=limits, image=image, base_image=base, packages=packages):
            for name, most in BOUNDS:
                assert 1 <= getattr(limits, name) <= most
            assert {image, base, packages} <= {None, DIGEST}
        case Limit(limits=limits, sandbox=sandbox):
            assert 1 <= limits.memory_mib <= MEMORY_MAX
            assert 1 <= limits.cpu_percent <= 100 * CORES
            assert sandbox == ID
        case OnSandbox() as message:
            assert message.verb in ON_SANDBOX
            assert message.sandbox == ID
