"""What a repeated request gets, depending on what was stored for the first one."""

from typing import Any

import pytest

from manual_clock import ManualClock
from promises import promise
from quiltfn.api.http.idempotency import Idempotency
from quiltfn.api.http.response import Response
from quiltfn.model.errors import Conflict, NotFound, StoreUnavailable
from quiltfn.model.idempotency import IdempotentRequest, StoredResponse

pytestmark = promise("D16")

REQUEST = IdempotentRequest(tenant_id="t", method="POST", path="/f", key="k", body_digest="d")


class Kept:
    """An `IdempotencyStore` that has stored the response `answer` for each key."""

    def __init__(self, answer: StoredResponse) -> None:
        self.answer = answer

    async def reserve(self, *_: object) -> StoredResponse:
        return self.answer


class Empty:
    """An `IdempotencyStore` without responses, which records what it is given."""

    def __init__(self) -> None:
        self.kept: list[tuple[object, ...]] = []

    async def reserve(self, *_: object) -> None:
        return None

    async def complete(self, _: object, *given: object) -> None:
        self.kept.append(given)


class Away(Empty):
    """An `IdempotencyStore` that takes keys, and then no response."""

    async def complete(self, *_: object) -> None:
        raise StoreUnavailable("away")


class Untold:
    """An `IdempotencyStore` that takes a key but reports no outcome, as when the response to a
    commit is lost.
    """

    def __init__(self) -> None:
        self.is_taken = False

    async def reserve(self, *_: object, again: bool = False) -> StoredResponse | None:
        if not self.is_taken:
            self.is_taken = True
            raise StoreUnavailable("the database did not tell")
        return None if again else StoredResponse(body_digest="d")

    async def complete(self, *_: object) -> None:
        pass


def keyed_by(store: Any) -> Idempotency:
    return Idempotency(store, ManualClock())


async def never() -> Response:
    raise AssertionError("it was executed again")


async def test_a_call_whose_answer_had_to_make_room_is_not_run_again() -> None:
    kept = StoredResponse(body_digest="d", status=200, headers={"x-invocation-id": "i"}, body=b"")
    with pytest.raises(Conflict, match="was executed; its answer is not kept") as refused:
        await keyed_by(Kept(kept)).run(REQUEST, never)
    assert refused.value.invocation_id == "i"


async def accepted(invocation_id: str) -> Response:
    return Response(status=202, body=invocation_id.encode())


async def not_accepted(_: str) -> None:
    return None


async def no_such_call(_: str) -> None:
    raise NotFound("there is no such call")


async def not_asked(_: str) -> Response:
    raise AssertionError("the response was not lost")


LOST = StoredResponse(body_digest="d", status=503, headers={"x-invocation-id": "i"}, body=b"{}")


async def test_in_place_of_a_lost_response_is_that_of_the_accepted_invocation_or_its_id() -> None:
    answer = await keyed_by(Kept(LOST)).run(REQUEST, never, find=accepted)
    assert (answer.status, answer.body) == (202, b"i")
    assert answer.header("idempotency-replayed") == "true"
    for find in (None, not_accepted, no_such_call):
        answer = await keyed_by(Kept(LOST)).run(REQUEST, never, find=find)
        assert (answer.status, answer.body, answer.header("x-invocation-id")) == (503, b"{}", "i")
        assert answer.header("content-type") == "application/json"
        assert answer.header("idempotency-replayed") == "true"


async def test_a_response_that_only_looks_lost_is_given_again() -> None:
    headers = {"x-invocation-id": "i", "content-type": "application/json"}
    failed = StoredResponse(body_digest="d", status=503, headers=headers, body=b"{}")
    keyed = keyed_by(Kept(failed))
    answer = await keyed.run(REQUEST, never, find=not_asked)
    assert (answer.status, answer.header("x-invocation-id")) == (503, "i")


async def test_what_is_kept_is_the_response_without_the_id_of_its_request() -> None:
    store = Empty()

    async def execute() -> Response:
        return Response(status=201, headers=[("a", "1"), ("b", "2"), ("a", "3")], body=b"{}")

    keyed = keyed_by(store)
    response = await keyed.run(REQUEST, execute)
    response.headers.append(("x-request-id", "r"))
    assert store.kept == [(201, {"a": "1, 3", "b": "2"}, b"{}")]
    assert response.headers[:3] == [("a", "1"), ("b", "2"), ("a", "3")]


async def test_a_key_that_the_store_took_without_saying_so_is_not_lost_for_repetitions() -> None:
    """A client repeats a refused request until it succeeds. This must not take until the next
    restart.
    """

    async def wait() -> Response:
        with pytest.raises(Conflict, match="still runs"):
            await keyed.run(REQUEST, never)
        return await accepted("i")

    keyed = keyed_by(Untold())
    with pytest.raises(StoreUnavailable):
        await keyed.run(REQUEST, never)
    answer = await keyed.run(REQUEST, wait)  # while this repetition runs, another one is refused
    assert (answer.status, answer.body) == (202, b"i")


@pytest.mark.parametrize("is_unknown", [False, True])
async def test_a_response_that_was_not_stored_says_so_unless_it_says_less(
    *, is_unknown: bool
) -> None:
    """The client must not take an operation whose outcome is unknown for one that was done."""

    async def execute() -> Response:
        return Response(status=503, body=b"", executed=True, is_unknown=is_unknown)

    keyed = keyed_by(Away())
    if is_unknown:
        assert (await keyed.run(REQUEST, execute)).is_unknown
    else:
        with pytest.raises(StoreUnavailable, match="this was done, but its answer"):
            await keyed.run(REQUEST, execute)
