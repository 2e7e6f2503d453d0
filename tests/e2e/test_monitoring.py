"""Monitoring with Prometheus and Grafana: metrics, dashboard, and alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from e2e.server import Server
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("O7")]
GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
RULES, CASES = GRAFANA / "quiltfn-alerts.yml", GRAFANA / "quiltfn-alerts-test.yml"
DASHBOARD = GRAFANA / "quiltfn-dashboard.json"
NAME = re.compile(r"\bquiltfn_\w+")
WITH_LABELS = re.compile(r"\b(quiltfn_\w+)\{([^}]*)\}")
BY_PROMETHEUS = {"job", "instance"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: scripts/setup --test installs it"
)


def promtool(*arguments: object, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def metrics(shared: Server) -> str:
    """The metrics of a server that has had requests."""
    function = shared.deploy("true").id
    assert shared.call("POST", f"/api/functions/{function}/invoke").status_code == 200
    assert shared.call("POST", "/api/functions/invoke/nobody").status_code == 404
    work = shared.call("POST", f"/api/functions/{function}/invoke?mode=async").json()
    path = f"/api/functions/{function}/invocations/{work['invocation_id']}?wait_seconds=10"
    assert shared.call("GET", path).json()["status"] == "success"
    return shared.call("GET", "/metrics").text


# Metrics -----------------------------------------------------------------------------------


@needs_promtool
def test_promtool_has_nothing_against_the_metrics(metrics: str) -> None:
    found = promtool("check", "metrics", given=metrics)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@needs_promtool
def test_promtool_complains_of_what_is_wrong(metrics: str) -> None:
    """Negative control of the test above."""
    wrong = metrics.replace("quiltfn_invocations_total", "quiltfn_invocations")
    found = promtool("check", "metrics", given=wrong)
    assert found.returncode != 0
    assert "quiltfn_invocations" in found.stdout + found.stderr


# Dashboard and alerts ----------------------------------------------------------------------


def expressions_of_panels() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    found = [one["expr"] for panel in board["panels"] for one in panel.get("targets", [])]
    return [*found, *(one["query"]["query"] for one in board["templating"]["list"][1:])]


def expressions_of_rules() -> list[str]:
    blocks = re.findall(r"^ +expr: (.*(?:\n {12}.*)*)", RULES.read_text(), re.MULTILINE)
    assert len(blocks) == RULES.read_text().count("- alert:")
    return blocks


def series_of(text: str) -> dict[str, set[str]]:
    """The label names of every series that a server exports, by the name of the series."""
    found: dict[str, set[str]] = {}
    for name in re.findall(r"^# TYPE (\w+) counter$|^# TYPE (\w+) gauge$", text, re.MULTILINE):
        found[name[0] or name[1]] = set()
    for name, labels in re.findall(r"^(\w+)\{([^}]*)\} ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


def unknown(expressions: list[str], text: str) -> list[str]:
    """The metrics and labels in the expressions that no server exports."""
    series = series_of(text)
    wrong = [name for one in expressions for name in NAME.findall(one) if name not in series]
    for expression in expressions:
        for name, matchers in WITH_LABELS.findall(expression):
            labels = set(re.findall(r"(\w+)=", matchers))
            # A series without values does not show its labels, so they cannot be checked.
            if series.get(name) and not labels <= series[name] | BY_PROMETHEUS:
                wrong.append(f"{name}{{{matchers}}}")
    return wrong


def test_every_metric_that_is_shown_or_watched_is_there(metrics: str) -> None:
    panels, rules = expressions_of_panels(), expressions_of_rules()
    assert len(panels) > 20
    assert unknown(panels, metrics) == []
    assert unknown(rules, metrics) == []


def test_a_metric_that_is_not_there_is_noticed(metrics: str) -> None:
    """Negative control of the test above."""
    wrong = ["sum(quiltfn_invocation_total)", 'quiltfn_instances{stat="busy"}']
    assert unknown(wrong, metrics) == ["quiltfn_invocation_total", 'quiltfn_instances{stat="busy"}']


def test_every_metric_is_shown_on_the_dashboard(metrics: str) -> None:
    shown = {name for one in expressions_of_panels() for name in NAME.findall(one)}
    there = {re.sub("_(sum|count)$", "_bucket", name) for name in series_of(metrics)}
    there = {name for name in there if name.startswith("quiltfn_") and "_created" not in name}
    old = set(re.findall(r"^# HELP (\w+) The old name of", metrics, re.MULTILINE))
    assert there - shown == old


def parts(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every leaf of a JSON value with its path."""
    if isinstance(value, dict) and value:
        for name, child in value.items():
            yield from parts(child, f"{path}.{name}")
    elif isinstance(value, list) and value:
        for at, child in enumerate(value):
            yield from parts(child, f"{path}[{at}]")
    else:
        yield path, value


def lost(board: Any) -> list[str]:
    """The paths of this dashboard that Grafana's own model omits or reads differently."""
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    known = dict(parts(read))
    return [path for path, value in parts(board) if known.get(path, "none") != value]


def test_grafana_reads_all_of_the_dashboard() -> None:
    board = json.loads(DASHBOARD.read_text())
    assert lost(board) == []
    panels = board["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_a_misspelt_key_of_the_dashboard_is_noticed() -> None:
    """Negative control of the test above."""
    for key in ("title", "gridPos", "targets", "fieldConfig"):
        board = json.loads(DASHBOARD.read_text())
        panel = board["panels"][-1]
        panel[f"{key}s"] = panel.pop(key)
        assert lost(board), key


@needs_promtool
def test_the_expressions_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    rules = []
    for number, expression in enumerate(expressions_of_panels()):
        if not expression.startswith("label_values"):
            fixed = expression.replace("$__rate_interval", "5m").replace("$job", ".*")
            record = {"record": f"panel_{number}", "expr": fixed.replace("$instance", ".*")}
            rules.append(record)
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    found = promtool("check", "rules", path)
    assert found.returncode == 0, found.stdout + found.stderr
    rules[0]["expr"] = "sum("
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert promtool("check", "rules", path).returncode != 0


@needs_promtool
def test_the_alerts_fire_when_they_should_and_not_otherwise() -> None:
    found = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert found.returncode == 0, found.stdout + found.stderr
    found = promtool("test", "rules", CASES)
    assert found.returncode == 0, found.stdout + found.stderr


@needs_promtool
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("> 300", "> 3000"),
        ('up{job="quiltfn"} == 0', "up == 0"),
        ("0.01", "0.06"),
        ("for: 10m", "for: 1m"),
    ],
)
def test_an_alert_that_is_changed_fails_its_cases(tmp_path: Path, right: str, wrong: str) -> None:
    """Negative control of the test above."""
    text = RULES.read_text()
    assert right in text
    (tmp_path / RULES.name).write_text(text.replace(right, wrong))
    (tmp_path / CASES.name).write_text(CASES.read_text())
    assert promtool("test", "rules", tmp_path / CASES.name).returncode != 0


def test_every_alert_has_cases() -> None:
    """Each alert needs a case in which it fires. Promtool compares the list of all firing alerts,
    so the cases also show when an alert does not fire.
    """
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    fires = re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:\n", CASES.read_text())
    assert set(alerts) == set(fires)
