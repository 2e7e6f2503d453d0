#!/usr/bin/env python3
"""A tour of the API against a temporary server: shows each request and checks its response.

It uses HTTP instead of the client library, so that every request can be repeated with curl. The
bodies for creating and invoking are those of GET /api/functions/examples.
"""

import argparse
import collections
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from quiltfn.api.help import CREATE_BODY, INVOKE_BODY

ROOT = Path(__file__).resolve().parent.parent
QUILTFN = ROOT / ".venv" / "bin" / "quiltfn"
LISTENING = re.compile(r'listening on (http://[^\s"]+)')
START_S = 15.0
STOP_S = 45.0  # a drain may take 30 s
LINES_MAX = 26

SHOWS_WHAT_IT_GETS = 'echo "payload=$QUILT_PAYLOAD EXTRA_VAR=$EXTRA_VAR NODE_ENV=$NODE_ENV"'
WHAT_IT_GETS = 'payload={"key":"value"} EXTRA_VAR=value NODE_ENV=production\n'


class NotAsPromised(Exception):
    """A response differs from the API's contract."""


# --- the server --------------------------------------------------------------------------------


class Server:
    """`quiltfn serve` in a separate process group, so that Ctrl-C ends it only through this
    program.
    """

    def __init__(self, data_dir: str) -> None:
        command = [str(QUILTFN), "serve", "--host", "127.0.0.1", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--data-dir", data_dir],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.said: collections.deque[str] = collections.deque(maxlen=200)
        self.url: str | None = None
        self._heard = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_listening(self) -> str:
        self._heard.wait(START_S)
        if self.url is None:
            how = "ended" if self.process.poll() is not None else f"took over {START_S:.0f} s"
            raise NotAsPromised(f"the server {how} before it listened; it said:\n{self.output()}")
        return self.url

    def stop(self) -> str | None:
        """End the server, by SIGKILL if necessary. Returns a sentence if it did not end
        properly.
        """
        if self.process.poll() is not None:
            return f"the server ended by itself; it said:\n{self.output()}"
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"SIGTERM did not end the server in {STOP_S:.0f} s; it said:\n{self.output()}"
        self._reader.join(1.0)
        if code != 0:
            return f"after SIGTERM the server's exit code was {code}; it said:\n{self.output()}"
        return None

    def output(self) -> str:
        return "".join(f"  | {line}" for line in list(self.said)) or "  (nothing)"

    def _read(self) -> None:
        stream: IO[str] | None = self.process.stdout
        assert stream is not None
        for line in stream:
            self.said.append(line if line.endswith("\n") else f"{line}\n")
            found = LISTENING.search(line)
            if found and self.url is None:
                self.url = found[1]
                self._heard.set()
        self._heard.set()


@contextmanager
def throw_away_server() -> Iterator[str]:
    data_dir = tempfile.mkdtemp(prefix="quiltfn-demo-")
    try:
        server = Server(data_dir)
        try:
            yield server.wait_listening()
        except httpx.TransportError as error:
            why = f"{type(error).__name__} {error}".strip()
            raise NotAsPromised(f"no answer: {why}; it said:\n{server.output()}") from error
        finally:
            # A second Ctrl-C must not leave the server or its data behind.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            complaint = server.stop()
        if complaint is not None:
            raise NotAsPromised(complaint)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


# --- the tour ----------------------------------------------------------------------------------


class Tour:
    """Sends requests, and shows and checks the responses."""

    def __init__(self, http: httpx.Client, console: Console) -> None:
        self.http = http
        self.console = console
        self.steps = 0

    def ask(
        self,
        headline: str,
        call: tuple[str, str],
        body: dict[str, Any] | None = None,
        *,
        status: int = 200,
    ) -> Any:
        """Send one request as curl would, and show its response. Raises if the status is
        unexpected.
        """
        (method, path), self.steps = call, self.steps + 1
        sent = None if body is None else json.dumps(body, separators=(",", ":"))
        self.console.print(Text(f"\n{self.steps}. {headline}", style="bold"))
        self._print(f"{method} {path}", "cyan")
        if sent is not None:
            self._print(sent)
        kind = {} if sent is None else {"Content-Type": "application/json"}
        began = time.perf_counter()
        response = self.http.request(method, path, content=sent, headers=kind)
        took_ms = (time.perf_counter() - began) * 1000
        colour = "green" if response.is_success else "yellow"
        reason = f"{response.status_code} {response.reason_phrase}"
        self._print(f"→ {reason}  ({took_ms:.1f} ms)", colour)
        try:
            answer = response.json() if response.content else None
        except ValueError:
            raise NotAsPromised(f"{method} {path} answered no JSON: {response.text}") from None
        for line in [] if answer is None else pretty(answer):
            self.console.print(JSONHighlighter()(Text(line)), soft_wrap=True)
        self.check(
            response.status_code == status,
            f"{method} {path} should answer {status}, not {response.status_code}",
        )
        return answer

    def check(self, holds: bool, sentence: str) -> None:
        if not holds:
            raise NotAsPromised(f"step {self.steps}: {sentence}")

    def expect(self, answer: Any, **promised: Any) -> None:
        """Check fields of a response."""
        for key, value in promised.items():
            found = answer.get(key)
            self.check(found == value, f"{key} should be {value!r}, not {found!r}")

    def _print(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=True)


def pretty(answer: Any) -> list[str]:
    """JSON with one line per field or list element, so that a response fits the screen."""
    if not isinstance(answer, dict):
        return [compact(answer)]
    lines = ["{"]
    for key, value in answer.items():
        if isinstance(value, list) and value:
            lines += [f'  "{key}": [', *(f"    {compact(one)}," for one in value)]
            lines[-1] = lines[-1].removesuffix(",")
            lines.append("  ],")
        else:
            lines.append(f'  "{key}": {compact(value)},')
    lines[-1] = lines[-1].removesuffix(",")
    lines.append("}")
    hidden = len(lines) - LINES_MAX
    return lines if hidden <= 0 else [*lines[:LINES_MAX], f"  … {hidden} more lines"]


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def tour(at: Tour) -> None:
    function = make_and_call(at)
    update_and_roll_back(at, function)
    pause_and_resume(at, function)
    look_and_delete(at, function)


def make_and_call(at: Tour) -> str:
    made = at.ask("Create a function", ("POST", "/api/functions"), CREATE_BODY, status=201)
    at.expect(made, name="my-function", state="pending", version=1)
    function = f"/api/functions/{made['function_id']}"

    deployed = at.ask("Deploy it: an instance is made ready", ("POST", f"{function}/deploy"))
    at.expect(deployed, state="active", error_message=None)

    call = at.ask("Invoke it by id", ("POST", f"{function}/invoke"), INVOKE_BODY)
    at.expect(call, status="success", exit_code=0, stdout="hello\n", cold_start=False)
    return function


def update_and_roll_back(at: Tour, function: str) -> None:
    by_name = ("POST", "/api/functions/invoke/my-function")

    change = {"handler": SHOWS_WHAT_IT_GETS}
    updated = at.ask("Update the handler: version 2 takes over", ("PUT", function), change)
    at.expect(updated, current_version=2, handler=SHOWS_WHAT_IT_GETS, state="active")

    call = at.ask("Invoke it by name: what the handler gets", by_name, INVOKE_BODY)
    at.expect(call, status="success", stdout=WHAT_IT_GETS, cold_start=False)

    listed = at.ask("Both versions are kept", ("GET", f"{function}/versions"))["versions"]
    numbers = [(one["version"], one["is_active"]) for one in listed]
    at.check(numbers == [(2, True), (1, False)], f"version 2 should be the active one: {numbers}")

    back = at.ask("Roll back", ("POST", f"{function}/rollback"), {"version": 1})
    at.expect(back, current_version=1, handler="echo hello", state="active")

    call = at.ask("Invoke it again: version 1 was kept warm", by_name, INVOKE_BODY)
    at.expect(call, status="success", stdout="hello\n", cold_start=False)


def pause_and_resume(at: Tour, function: str) -> None:
    paused = at.ask("Pause it", ("POST", f"{function}/pause"))
    at.expect(paused, success=True, message=None)

    invoke = ("POST", f"{function}/invoke")
    refused = at.ask("A call is now refused, with a hint", invoke, INVOKE_BODY, status=409)
    at.expect(refused, error_code="FUNCTION_NOT_ACTIVE")
    at.expect(refused["details"] or {}, state="paused")
    at.check(bool(refused["hint"]), "a refused call should say what helps")

    resumed = at.ask("Resume it", ("POST", f"{function}/resume"))
    at.expect(resumed, state="active")


def look_and_delete(at: Tour, function: str) -> None:
    pool = at.ask("Its warm pool", ("GET", f"{function}/pool"))
    at.check(pool["ready_count"] >= 1, "an instance should be ready after resume")

    stats = at.ask("All pools of this tenant", ("GET", "/api/functions/pool/stats"))
    states = ("warming", "ready", "busy", "recycling", "terminating")
    total = sum(stats[f"{state}_count"] for state in states)
    at.expect(stats, total_count=total)

    calls = at.ask("Its last calls", ("GET", f"{function}/invocations?limit=5"))["invocations"]
    outputs = [one["stdout"] for one in calls]
    promised = ["hello\n", WHAT_IT_GETS, "hello\n"]
    at.check(outputs == promised, f"the three calls should be there, newest first: {outputs}")

    at.ask("Delete it", ("DELETE", function), status=204)


def farewell(console: Console, steps: int, took_s: float) -> None:
    console.print(f"\nAll {steps} answers were as promised, {took_s:.1f} s after the start.")
    console.print("\nTo keep a server running, and to use it from another terminal:\n")
    for line in (
        ".venv/bin/quiltfn serve --data-dir ./data\n",
        ".venv/bin/quiltfn functions create hi --handler 'echo hi' && "
        ".venv/bin/quiltfn functions deploy hi",
        ".venv/bin/quiltfn invoke hi",
    ):
        console.print(f"  {line}", soft_wrap=True)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description="A tour of the API on a throw-away server.")
    parser.add_argument("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    started = parser.parse_args().started
    if not QUILTFN.exists():
        print("error: there is no .venv/bin/quiltfn yet; run scripts/setup first", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        with throw_away_server() as url:
            console.print(f"a server listens on {url}")
            with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
                at = Tour(http, console)
                tour(at)
        farewell(console, at.steps, time.time() - started)
    except KeyboardInterrupt:
        print("interrupted; the server is stopped and its data removed", file=sys.stderr)
        return 130
    except (NotAsPromised, httpx.HTTPError) as error:
        print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
