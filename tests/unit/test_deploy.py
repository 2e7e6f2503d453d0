"""deploy/kubernetes, checked against Kubernetes' own schemas. None of it was run on a cluster."""

import copy
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema_rs
import pytest
import yaml

from promises import promise
from quiltfn import __version__
from quiltfn.operator import chosen_settings
from quiltfn.settings import from_everywhere

pytestmark = promise("N65")

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
SCHEMAS = json.loads((ROOT / "tests" / "unit" / "kubernetes_schemas.json").read_text())
MANIFEST = (KUBERNETES / "quiltfn.yaml").read_text()
OBJECTS: list[dict[str, Any]] = [one for one in yaml.safe_load_all(MANIFEST) if one]


def faults(manifest: dict[str, Any]) -> list[str]:
    """The errors of a manifest by the schema of its kind."""
    schema = {"$ref": f"#/$defs/{SCHEMAS['kinds'][manifest['kind']]}", "$defs": SCHEMAS["$defs"]}
    return [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(manifest)]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [one for one in OBJECTS if one["kind"] == kind]
    return copy.deepcopy(found)


@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda manifest: manifest["kind"])
def test_kubernetes_schemas_know_everything(manifest: dict[str, Any]) -> None:
    assert faults(manifest) == []


def test_a_fault_would_be_found() -> None:
    nodes = of_kind("DaemonSet")
    nodes["spec"]["template"]["spec"]["hostNetwork"] = "yes"
    nodes["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    assert len(faults(nodes)) == 2


def test_what_is_named_is_there() -> None:
    pod = of_kind("DaemonSet")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    volumes = {one["name"] for one in pod["spec"]["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == volumes
    ports = {one["name"] for one in container["ports"]}
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert {one["port"] for one in probes} <= ports
    service = of_kind("Service")["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert {one["targetPort"] for one in service["ports"]} <= ports
    (settings,) = (one for one in pod["spec"]["volumes"] if one["name"] == "settings")
    assert settings["configMap"]["name"] == of_kind("ConfigMap")["metadata"]["name"]
    given = " ".join(container["command"])
    variables = {one["name"] for one in container["env"]}
    assert set(re.findall(r"\$\((\w+)\)", given)) <= variables


def test_the_server_takes_the_command_line_and_the_settings(tmp_path: Path) -> None:
    (container,) = of_kind("DaemonSet")["spec"]["template"]["spec"]["containers"]
    program, verb, *options = container["command"]
    assert (program, verb) == ("quiltfn", "serve")
    given = vars(chosen_settings.parser().parse_args(options))
    file = tmp_path / "quiltfn.toml"
    file.write_text(of_kind("ConfigMap")["data"]["quiltfn.toml"])
    given |= {"config": str(file), "host": "10.0.0.1"}
    settings = from_everywhere(given)
    grace_s = of_kind("DaemonSet")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > settings.drain_s


@pytest.mark.parametrize(
    "file", ["chart/Chart.yaml", "chart/values.yaml", "quiltfn.yaml", "README.md"]
)
def test_the_version_of_a_manifest_is_that_of_the_package(file: str) -> None:
    text = (KUBERNETES / file).read_text()
    assert set(re.findall(r"\b\d+\.\d+\.\d+\b", text)) == {__version__}


def test_the_manifests_are_what_the_chart_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only scripts/render-chart runs Helm; this test notices that the chart has changed."""
    monkeypatch.setitem(sys.modules, "helm_python", ModuleType("helm_python"))
    made = runpy.run_path(str(ROOT / "scripts" / "render_chart.py"))
    assert made["digest_of"](KUBERNETES / "chart") in MANIFEST, "run scripts/render-chart"
    assert MANIFEST.startswith(made["HEAD"].partition("\n")[0])


def test_the_database_of_the_example_is_synchronous() -> None:
    """The schema of this kind belongs to the database operator and is not available here."""
    text = (KUBERNETES / "postgresql" / "cloudnativepg.yaml").read_text()
    cluster = yaml.safe_load(text)["spec"]
    assert cluster["postgresql"]["synchronous"]["number"] >= 1
    assert cluster["bootstrap"]["initdb"]["encoding"] == "UTF8"
    assert cluster["instances"] > cluster["postgresql"]["synchronous"]["number"]
