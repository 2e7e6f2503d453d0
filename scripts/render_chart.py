"""Renders deploy/kubernetes/chart. Run by scripts/render-chart, which installs its imports."""

import hashlib
import sys
from pathlib import Path

import helm_python  # type: ignore[import-not-found]

KUBERNETES = Path(__file__).resolve().parents[1] / "deploy" / "kubernetes"
CHART, RENDERED = KUBERNETES / "chart", KUBERNETES / "quiltfn.yaml"
HEAD = """\
# A fleet of quiltfn nodes: deploy/kubernetes/chart with its own values, in the namespace quiltfn.
# Made by scripts/render-chart of files with the digest {digest}.
"""
NAMESPACE = """\
# The nodes are privileged, so the namespace must allow that.
apiVersion: v1
kind: Namespace
metadata:
  name: quiltfn
  labels:
    pod-security.kubernetes.io/enforce: privileged
"""


def digest_of(chart: Path) -> str:
    """A digest of the chart's files and their names."""
    found = hashlib.sha256()
    for path in sorted(chart.rglob("*")):
        if path.is_file():
            found.update(f"{path.relative_to(chart)}\0{path.read_text()}\0".encode())
    return found.hexdigest()[:16]


def main() -> int:
    """Returns 1 if Helm reports errors, or if with `--check` the file is outdated."""
    result = helm_python.lint(str(CHART))
    if result["errors"]:
        print(result["errors"], file=sys.stderr)
        return 1
    with helm_python.Chart.load(str(CHART)) as chart:
        made = chart.render({}, name="quiltfn", namespace="quiltfn")
    parts = [NAMESPACE, *(made[name].strip() + "\n" for name in sorted(made))]
    text = HEAD.format(digest=digest_of(CHART)) + "---\n".join(["", *parts])
    if "--check" in sys.argv[1:]:
        return 0 if RENDERED.read_text() == text else 1
    RENDERED.write_text(text)
    print(RENDERED.relative_to(KUBERNETES.parents[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
