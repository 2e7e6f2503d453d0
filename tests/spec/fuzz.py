"""Fuzzes a live server by its own OpenAPI document; `scripts/soak fuzz` does this for a long time.

Rounds of schemathesis run with different seeds, with and without a credential, until a number of
requests was sent. The credential is a signed token, since the fuzzer could revoke a key.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from e2e.server import Server, watched
from spec.api_client import Api, make_secret, token
from spec.fuzz_hooks import HANDLERS

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
HERE = Path(__file__).resolve().parent
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
    "missing_required_header,unsupported_method,allow_header_conformance,use_after_free"
)
# 412 for a stale or malformed If-Match also counts as a refusal; a documented 503 is no failure.
CONFIG = """
hooks = "spec.fuzz_hooks"
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 413, 415, 422, 428, 429, 503]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503]
"""
# Without a credential, every operation is refused before the server reads a field, so limits are
# not tested.
KEYED_PHASES, OPEN_PHASES = "examples,coverage,fuzzing,stateful", "fuzzing"


@dataclass
class Report:
    """The number of requests that were sent, and the errors in responses."""

    requests: int = 0
    operations: int = 0
    rounds: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.requests} requests in {self.rounds} rounds over {self.operations} operations, "
            f"{len(self.failures)} failures"
        )


def fuzz(server: Server, secret: str, requests: int, examples: int) -> Report:
    """Sends at least `requests` requests. `examples`: how many of them a round sends to each
    operation in each phase.
    """
    report, seed = Report(), 0
    while report.requests < requests and not report.failures:
        seed += 1
        report.rounds += 1
        bearer = token(secret, scope="operator", exp=2_000_000_000)
        _round(
            server,
            ["-H", f"Authorization: Bearer {bearer}"],
            KEYED_PHASES,
            (seed, examples),
            report,
        )
        if seed == 1:
            _round(server, [], OPEN_PHASES, (seed, examples), report)
        strange = _handlers(server, bearer) - set(HANDLERS)
        if strange:
            report.failures.append(f"the fuzzer made functions with other handlers: {strange}")
    return report


def _handlers(server: Server, bearer: str) -> set[str]:
    """The handlers of the functions that are left: they show whether `fuzz_hooks` has replaced all
    others.
    """
    headers = {"Authorization": f"Bearer {bearer}"}
    found = Api(server.url).good("GET", "/api/functions", headers=headers)["functions"]
    return {one["handler"] for one in found}


def _round(
    server: Server, credential: list[str], phases: str, size: tuple[int, int], report: Report
) -> None:
    seed, examples = size
    with tempfile.TemporaryDirectory() as directory:
        config, result = Path(directory) / "fuzz.toml", Path(directory) / "told.json"
        config.write_text(CONFIG)
        command = [str(SCHEMATHESIS), "--config-file", str(config), "run", *credential]
        command += [f"{server.url}/openapi.json", "--phases", phases, "--checks", CHECKS]
        command += ["--max-examples", str(examples), "--seed", str(seed), "--no-shrink"]
        command += ["--generation-database", "none", "--continue-on-failure", "--no-color"]
        command += ["--report", "json", "--report-json-path", str(result), "--warnings", "off"]
        # The response of a function's URL is the handler's own, and is tested in
        # tests/e2e/test_urls.py.
        command += ["--exclude-path", "/fn/{path}"]
        command += ["--suppress-health-check", "all", "--request-timeout", "30"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        )
        if not result.exists():
            report.failures.append(done.stdout + done.stderr)
            return
        found = json.loads(result.read_text())
        report.requests += found["test_cases"]["generated"]
        report.operations = found["operations"]["tested"]
        if found["failures"] or found["errors"] or not found["complete"]:
            report.failures.append(done.stdout)


def run(requests: int, examples: int) -> Report:
    """Runs the fuzzer on a server that it starts."""
    with watched("--jwt-secret ROOT/jwt-secret") as server:
        secret = make_secret(server.root)
        server.start()
        return fuzz(server, secret, requests, examples)


def main() -> int:
    it = argparse.ArgumentParser(prog="scripts/soak fuzz", description=__doc__)
    it.add_argument("--requests", type=int, default=10_000)
    it.add_argument("--examples", type=int, default=25)
    given = it.parse_args()
    report = run(given.requests, given.examples)
    print(report)
    for failure in report.failures:
        print(failure)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
