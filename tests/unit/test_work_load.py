"""What a storm requests from its server at the end: everything, once no more can be added."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from e2e import work_load
from e2e.work_history import Job, Run, WorkHistory
from e2e.work_load import WorkLoad


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated searches take no time."""
    pauses: Any = SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=lambda _: None)
    monkeypatch.setattr(work_load, "time", pauses)


class FakeServer:
    """A server with one function. `late`: calls that are accepted only after each list of records,
    such as from requests whose clients have given up. `waiting`: ticks, each of which becomes a
    call that ends at once, after it was seen waiting.
    """

    def __init__(self, late: list[str], waiting: list[str]) -> None:
        self.late, self.waiting = late, waiting
        self.records: list[str] = []
        self.ran: list[str] = []
        self.lists = 0

    def call(self, _method: str, path: str, _body: Any = None) -> Any:
        path = path.partition("?")[0]
        found = self._found(path, path.rpartition("/")[2])
        status = 404 if found is None else 200
        return SimpleNamespace(status_code=status, text=str(found), json=lambda: found)

    def _found(self, path: str, last: str) -> Any:
        if last == "queue":
            return {"queued": 0, "delayed": 0, "running": 0, "dead_letters": 0}
        if last == "functions":
            return {"functions": [{"id": "f"}], "next_cursor": None}
        if last == "invocations":
            self.lists += 1
            listed = [self._record(one) for one in self.records]
            if self.late:
                self._run(self.late.pop(0))
            return {"invocations": listed, "next_cursor": None}
        if last == "runs":
            runs = [{"outcome": "waiting", "due_at": 1, "invocation_id": None}] * len(self.waiting)
            if self.waiting:
                self._run(self.waiting.pop(0))
            return {"runs": runs, "next_cursor": None}
        if last in ("attempts", "dead-letters"):
            return {last.replace("-", "_"): [], "next_cursor": None}
        if path.startswith("/api/schedules/"):
            counts = dict.fromkeys(("fired_count", "missed_count", "skipped_count"), 0)
            return {"next_runs": [2], "created_at": 0, "every_seconds": 1} | counts
        return self._record(last) if last in self.records else None

    def _run(self, name: str) -> None:
        self.records.append(name)
        self.ran.append(name)

    @staticmethod
    def _record(name: str) -> dict[str, Any]:
        return {"invocation_id": name, "function_id": "f", "status": "success"}


def looked(server: FakeServer) -> set[str]:
    """The ids that are found in the end."""
    history = WorkHistory({"f": 1}, [Job("ok-1", "f", accepted={"plain"})], [], ["tick-1"])
    load: Any = WorkLoad(server, lambda *_: (0, None), over_s=5, history=history)  # type: ignore[arg-type]
    seen: Any = SimpleNamespace(runs=lambda: [Run(name, 1, 1.0, "tick-1") for name in server.ran])
    return set(load.look(seen).records)


def test_ticks_that_wait_are_waited_for() -> None:
    server = FakeServer([], ["tick-a", "tick-b", "tick-c"])
    assert looked(server) == {"tick-a", "tick-b", "tick-c"}
    assert server.lists == 1


def test_what_was_accepted_once_the_records_were_listed_is_listed_again() -> None:
    server = FakeServer(["late"], [])
    assert looked(server) == {"late"}
    assert server.lists == 2


def test_a_record_that_no_list_has_is_not_looked_for_without_end() -> None:
    server = FakeServer(["late-1", "late-2", "late-3"], [])
    assert looked(server) == {"late-1", "late-2"}
    assert server.lists == 3
