"""Invalid command lines: the error for each of them, and that no request is sent."""

import pytest

from promises import promise
from unit.canned_server import ID
from unit.command_line import CommandLine

INVOKE = "invoke hello --payload x"
POLICY = "functions async-policy hello"
ALIAS = f"aliases set {ID} live 4 --also"
AN_AGE = "a number of seconds, or 90s, 10m, 2h or 1d"
A_SHARE = "--also must be a percentage from 0.1% to 99.9%"
A_RATE = "must be a percentage from 0.1% to 99.9%"

UNKNOWN_WORDS = {
    "nonsense": "hint: quiltfn --help says what there is\n",
    "function list": "hint: quiltfn functions?",
    "functions lst": "hint: quiltfn functions list?",
    # Words that the API or other commands use.
    "schedules create x hello": "quiltfn schedules add?",
    "schedules delete x": "quiltfn schedules remove?",
    "runtimes get x": "quiltfn runtimes show?",
    "functions show x": "quiltfn functions get?",
    "functions rm x": "quiltfn functions delete?",
    "functions invocation x": "quiltfn functions invocations?",
    "functions create x --handler y --max-instances 8": "(--max?)",
    "invoke x --async --delay-seconds 5": "(--delay?)",
    "invoke x --asynch": "(--async?)",
    "schedules add x y --every-seconds=60": "(--every?)",
}
VALUES = {
    "functions create hello": "required: --handler",
    "functions create hello --handler h --env A": "--env takes KEY=VALUE, not 'A'",
    "functions list --url localhost:8080": "must look like http://127.0.0.1:8080",
    "functions update hello": "name at least one field to change",
    "functions rollback hello 0": "version must be 1 or more, not 0",
    "functions scale hello": "give --min or --max, or both",
    "functions invocations hello --limit 0": "--limit must be 1 or more, not 0",
    "functions list --api-key ä": "the API key has invalid characters",
    "functions get hello --output xml": "invalid choice: 'xml'",
    "functions get a/b": "function must be a name or an id",
    "invoke hello --payload-file /does/not/exist": (
        "error: /does/not/exist cannot be read: No such file or directory\n"
    ),
    "invoke @1 --payload a": "function must not be empty",
    "invoke hello@ --payload a": "must have a version or an alias after @",
    "invoke a/b --payload a": "function must be a name or an id",
    "invoke hello world": "--payload world",
    "invoke hello a b": "--payload 'a b'",
    **{f"{INVOKE} --async --delay {age}": AN_AGE for age in ("m", "5w", "1.5h", "-5m", "five")},
    f"{INVOKE} --async --delay \u0665m": AN_AGE,
    f"{POLICY} --backoff first=soon": "--backoff first must be a number, not 'soon'",
    f"{POLICY} --backoff last=1": "--backoff takes first, factor, most, jitter",
    **{f"{ALIAS} {share}": A_SHARE for share in ("5=0%", "5=0.09%", "5=99.91%", "5=100%")},
    **{f"{ALIAS} {share}": "--also must be" for share in ("5", "5=0.1", "x=5%")},
    **{
        f"{line} {rate}": f"{line.split()[-1]} {A_RATE}"
        for line in (f"{ALIAS} 5=10% --error-rate", "deploy --canary")
        for rate in ("0%", "0.05%", "99.95%", "100%")
    },
    "logs a --since soon": "--since must be an age such as 90s, 10m, 2h or 1d, today",
    "invocations --until 25:00": "--until must be",
    "usage --since 2026-13-01": "--since must be",
    "usage --since 5": "--since must be",
    "stats --since soon": "--since must be",
    "api-keys create --expires soon": "--expires must be an age",
}
TOGETHER = {
    "functions update hello --env A=1 --unset-env": "give --env or --unset-env, not both",
    "functions update hello --workdir /app --unset-workdir": "--workdir or --unset-workdir",
    "invoke hello --payload a --payload-file -": "give --payload or --payload-file, not both",
    f"{INVOKE} --stream --idempotency-key k": "--idempotency-key",
    f"{INVOKE} --stream --async": "--async",
    f"{INVOKE} --async --timing": "--timing",
    f"{INVOKE} --wait": "--wait goes with --async",
    f"{INVOKE} --delay 3": "--delay goes with --async",
    f"{POLICY} --on-success https://example.com/a": "give --secret-file",
    f"{POLICY} --reset --max-attempts 3": "--reset can't be combined",
    f"{POLICY} --on-failure a --unset-on-failure": (
        "give --on-failure or --unset-on-failure, not both"
    ),
    f"{POLICY} --on-success a --unset-on-success": (
        "give --on-success or --unset-on-success, not both"
    ),
    f"{POLICY} --secret-file /dev/null": "--secret-file requires a URL",
    f"{POLICY} --on-failure a --secret-file /dev/null": "--secret-file requires a URL",
    "dead-letters redrive hello": "give --id (repeatable) or --all",
    "dead-letters redrive hello --id i1 --all": "not both",
    "quota set acme": "name at least one limit",
    "runtimes add etl --kind ruby": "invalid choice: 'ruby'",
}
SCOPES = {
    "queue a --all-functions": "a name or --all-functions",
    "logs a --all-functions": "a name or --all-functions",
    "invocations --function a --all-functions": "a name or --all-functions",
    "invocations a --all-functions": "a name or --all-functions",
    "invocations a --function a": "a name or --function",
    "aliases list a --all-functions": "a name or --all-functions",
    "queue a --limit 2": "--limit and --cursor can't be combined with a name",
    "logs --call x": "--call needs the function too",
    "logs a --follow --until 1h": "--follow or --until",
    "logs a --since 1h --until 2h": "--since must be before --until",
}


@promise("A83")
@pytest.mark.parametrize(
    ("line", "reason"), [*(UNKNOWN_WORDS | VALUES | TOGETHER | SCOPES).items()]
)
def test_a_line_that_no_command_takes_asks_nobody(cli: CommandLine, line: str, reason: str) -> None:
    printed = cli.run(line, code=2)
    assert reason in printed.err
    assert "quiltfn has a bug" not in printed.err
    assert cli.asked == []
