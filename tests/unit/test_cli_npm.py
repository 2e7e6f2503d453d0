"""npm with a hostile repository: no code of the repository runs, no file is planted, no secret
leaks.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.cli import manifest, packages, tools
from quiltfn.cli.parsing import BadParameter
from unit.npm_registry import Registry, archive_of, running

pytestmark = promise("M3")

SHA = "0123456789" * 4
REPOSITORY = f"github:owner/evil#{SHA}"
SECRET = "not-for-others"
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    with running(tmp_path) as registry:
        settings = "registry=" + registry.url + "leak/${SOME_KEY}/\n"
        said = {
            "name": "evil",
            "version": "1.0.0",
            "scripts": {"prepare": f"touch {tmp_path}/it-ran"},
            "dependencies": {"plain": "*"},
        }
        registry.repository = archive_of({"package.json": json.dumps(said), ".npmrc": settings})
        registry.add("wants", dependencies={"evil": REPOSITORY})
        registry.add("plain")
        for name, value in (registry.environment(tmp_path / "home") | {"SOME_KEY": SECRET}).items():
            monkeypatch.setenv(name, value)
        yield registry


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app"
    path.mkdir()
    return path


def project(app: Path, **fields: Any) -> None:
    (app / "package.json").write_text(json.dumps({"name": "app", "version": "1.0.0", **fields}))


def locked(app: Path, entries: Mapping[str, Any]) -> None:
    root = json.loads((app / "package.json").read_text())
    said = {"name": "app", "lockfileVersion": 3, "packages": {"": root, **entries}}
    (app / "package-lock.json").write_text(json.dumps(said))


def leaked(registry: Registry) -> list[str]:
    return [path for path in registry.asked if SECRET in path]


@needs_npm
@pytest.mark.parametrize("shape", ["behind a package", "in yarn.lock", "behind a directory"])
def test_repository_is_refused(registry: Registry, app: Path, tmp_path: Path, shape: str) -> None:
    project(app, dependencies={"wants": "1.0.0"})
    if shape == "in yarn.lock":
        lines = ['  version "1.0.0"', f'  resolved "git+ssh://git@github.com/owner/evil.git#{SHA}"']
        (app / "yarn.lock").write_text("\n".join(["# yarn lockfile v1", "wants@1.0.0:", *lines]))
    if shape == "behind a directory":
        (app / "dep").mkdir()
        project(app / "dep", dependencies={"evil": REPOSITORY})
        project(app, dependencies={"dep": "file:./dep"})
    with pytest.raises(BadParameter, match="packages from repositories"):
        packages.install_node(app)
    assert not leaked(registry)
    assert not (tmp_path / "it-ran").exists()


@needs_npm
def test_npm_by_itself_obeys_the_settings_of_a_repository(registry: Registry, app: Path) -> None:
    """Negative control: npm's options against scripts and git are not sufficient."""
    project(app, dependencies={"wants": "1.0.0"})
    switches = ["--ignore-scripts", "--git=/bin/false", "--script-shell=/bin/false"]
    command = ["npm", "install", "--package-lock-only", *switches]
    subprocess.run(command, cwd=app, check=False, capture_output=True)
    assert leaked(registry)


@needs_npm
def test_npm_starts_no_program_even_if_it_takes_repositories(
    registry: Registry, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """npm must be safe even without the checks of newer npm versions, and without quiltfn's own
    checks of the files.
    """
    run = tools.run

    def without_its_switch(command: list[str], *more: Any) -> subprocess.CompletedProcess[str]:
        return run([word for word in command if word != "--allow-git=none"], *more)

    monkeypatch.setattr(tools, "run", without_its_switch)
    monkeypatch.setattr(manifest, "check", lambda _: None)
    project(app, dependencies={"evil": REPOSITORY})
    with pytest.raises(BadParameter, match="could not be installed"):
        packages.install_node(app)
    assert any("/tar.gz/" in path for path in registry.asked), "the repository was fetched"
    assert not leaked(registry)


@needs_npm
def test_packages_and_locked_ones_are_installed(registry: Registry, app: Path) -> None:
    project(app, dependencies={"plain": "^1.0.0"}, devDependencies={"evil": REPOSITORY})
    packages.install_node(app)
    assert (app / "node_modules/plain/index.js").is_file()
    assert not leaked(registry), "what is for development is not looked for"
    shutil.rmtree(app / "node_modules")
    entry = json.loads((app / "package-lock.json").read_text())["packages"]["node_modules/plain"]
    project(app, dependencies={"plain": "^1.0.0"})
    locked(app, {"node_modules/plain": entry})
    packages.install_node(app)
    assert (app / "node_modules/plain/index.js").is_file()


@pytest.mark.parametrize("lock", ["package-lock.json", "pnpm-lock.yaml"])
def test_node_that_obeys_no_variables_is_refused(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    npm, marker = tmp_path / "npm", tmp_path / "it-ran"
    npm.write_text(f'#!/bin/sh\n[ "$1" = --version ] || touch {marker}\n')
    npm.chmod(0o755)
    monkeypatch.setattr(tools, "found", lambda _: str(npm))
    project(app)
    (app / lock).write_text("{}")
    with pytest.raises(BadParameter, match="cannot be kept from starting programs"):
        packages.install_node(app)
    assert not marker.exists()


@pytest.mark.parametrize(
    "entry",
    [
        {"node_modules/evil": {"resolved": f"git+ssh://git@github.com/owner/evil.git#{SHA}"}},
        {"node_modules/evil": {"resolved": f"https://github.com/owner/evil.tgz#{SHA}"}},
        {"node_modules/a": {"version": "1.0.0", "dependencies": {"evil": REPOSITORY}}},
        {"node_modules/a": {"version": "1.0.0", "peerDependencies": {"evil": "~owner/evil"}}},
        {"node_modules/a": {"version": REPOSITORY}},
        {"../evil": {"version": "1.0.0"}},
        {"node_modules/../../evil": {"version": "1.0.0"}},
        {"/srv/evil/node_modules/a": {"version": "1.0.0"}},
        {"node_modules/evil": {"resolved": "../evil", "link": True}},
        {"node_modules/evil": {"resolved": "file:../evil.tgz"}},
        {"packages/a": {"dependencies": {"evil": "file:../../../evil"}}},
    ],
)
def test_a_lock_file_names_nothing_outside(app: Path, entry: Mapping[str, Any]) -> None:
    project(app)
    locked(app, entry)
    with pytest.raises(BadParameter, match=r"package-lock\.json, line 1: .*evil"):
        manifest.check(app)


def test_the_first_format_of_lock_files_is_read_too(app: Path) -> None:
    project(app)
    inner = {"version": "1.0.0", "requires": {"evil": REPOSITORY}}
    said = {"lockfileVersion": 1, "dependencies": {"a": {"version": "1.0.0", "requires": True}}}
    (app / "package-lock.json").write_text(json.dumps(said))
    manifest.check(app)
    said["dependencies"] = {"a": {"version": "1.0.0", "dependencies": {"b": inner}}}
    (app / "package-lock.json").write_text(json.dumps(said))
    with pytest.raises(BadParameter, match="evil: github:owner/evil"):
        manifest.check(app)


def test_a_lock_file_has_archives_of_any_registry(app: Path) -> None:
    project(app)
    wanted = {"a": "^1 || >=2.0.0-rc.1 <3", "b": "npm:@scope/c@^1", "c": "latest", "d": "1.x, 2.x"}
    for source in (
        "https://npm.pkg.github.com/download/@scope/a/1.0.0/0123",
        "https://user:key@registry.example.org:8443/a/-/a-1.0.0.tgz",
        "https://gitlab.com/api/v4/projects/1/packages/npm/@s/a/-/@s/a-1.0.0.tgz",
        "https://github.com/owner/a/releases/download/v1/a.tgz",
        "https://codeload.github.com/owner/a/tar.gz/v1",
    ):
        entry = {"version": "1.0.0", "resolved": source, "dependencies": wanted}
        locked(app, {"node_modules/a": entry, "packages/b": {"dependencies": {"x": "file:../x"}}})
        manifest.check(app)


def test_npm_reads_and_writes_nothing_outside_of_the_copy(app: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "package.json").write_text('{"name": "outside"}')
    project(app, scripts={"prepare": "x"}, workspaces=["packages/*"], packageManager="npm@1")
    links = {"package-lock.json": outside / "new", "yarn.lock": outside / "package.json"}
    links |= {"dep": outside, "inside": Path("package.json")}
    for name, target in links.items():
        (app / name).symlink_to(target)
    manifest.isolate(app)
    assert {path.name for path in app.iterdir()} == {"package.json", "yarn.lock", "inside"}
    assert not (app / "yarn.lock").is_symlink()
    kept = json.loads((app / "package.json").read_text())
    assert kept == {"name": "app", "version": "1.0.0", "workspaces": ["packages/*"]}
    assert not (outside / "new").exists()


@pytest.mark.parametrize("name", ["package.json", "package-lock.json", "pnpm-lock.yaml"])
def test_package_lists_stay_in_the_directory(app: Path, tmp_path: Path, name: str) -> None:
    project(app)
    (app / name).unlink(missing_ok=True)
    for place in (app / "inside", tmp_path / "outside"):
        place.write_text("{}")
        (app / name).unlink(missing_ok=True)
        (app / name).symlink_to(place)
        if place.parent == app:
            manifest.check(app)  # control: a link within the directory is accepted
    with pytest.raises(BadParameter, match=f"{name} leads out of the directory"):
        manifest.check(app)


@pytest.mark.parametrize("pattern", ["../*", "/srv/*", "packages/../../*"])
def test_workspaces_outside_are_refused(app: Path, pattern: str) -> None:
    project(app, workspaces=[pattern])
    with pytest.raises(BadParameter, match="leads out of the directory"):
        manifest.check(app)


def test_no_program_of_this_directory_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "npm-of-somebody"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([".", "", "/usr/bin"]))
    assert shutil.which(program.name) is not None, "negative control"
    assert tools.found(program.name) is None
    assert packages.environment(os.environ)["PATH"] == "/usr/bin"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.found(program.name) == str(program)


def test_a_program_that_is_run_gets_no_key_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILT_API_KEY", SECRET)
    monkeypatch.setenv("AWS_PROFILE", "mine")  # skopeo would get credentials from this profile
    output = tools.run(["env"]).stdout
    assert "AWS_PROFILE=mine" in output
    assert SECRET not in output
