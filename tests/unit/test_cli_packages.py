"""Which packages may be installed for a runtime: none that run code on the user's machine."""

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from promises import promise
from quiltfn.cli import manifest, packages, requirements, tools
from quiltfn.cli.parsing import BadParameter
from unit.sample_archives import a_builder, a_wheel

pytestmark = [promise("M3"), pytest.mark.usefixtures("offline")]

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TARGET = packages.Target(
    interpreter=f"/usr/bin/python{VERSION}", architecture=platform.machine(), glibc=41
)


# --- the server's platform ----------------------------------------------------------------------


@promise("M24")
@pytest.mark.parametrize("name", ["python3.99", "evil", "sh", "python", "python3.13-config"])
def test_servers_run_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    marker, tree = tmp_path / "it-ran", tmp_path / "tree"
    tree.mkdir()
    for program in (tmp_path / name, tree / name):
        program.write_text(f"#!/bin/sh\n/usr/bin/touch {marker}\n")
        program.chmod(0o755)
    monkeypatch.chdir(tree)
    assert not packages.compile_python(tree, str(tmp_path / name))
    assert not marker.exists()
    if re.fullmatch(r"python3\.\d+", name):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert packages.compile_python(tree, f"/elsewhere/{name}"), "where the PATH has it"
        assert marker.exists()


@promise("M26")
@pytest.mark.parametrize("count", [1, packages.MANY_MODULES])
def test_no_file_outside_of_the_tree_is_compiled(tmp_path: Path, count: int) -> None:
    tree, secret = tmp_path / "tree", tmp_path / "home" / ".pypirc"
    (tree / "a" / "b").mkdir(parents=True)
    secret.parent.mkdir()
    secret.write_text("[pypi]\npassword = topsecret\n")
    for number in range(count):
        (tree / f"own{number}.py").write_text("a = 1\n")
    (tree / "a" / "b" / "sub").symlink_to(tmp_path / "home")
    links = {
        "absolute.py": str(secret),
        "dots.py": f"../..{'/..' * len(tree.parts)}{secret}",
        "detour.py": "sub/../home/.pypirc",
        "within.py": "../../own0.py",
    }
    for name, target in links.items():
        (tree / "a" / "b" / name).symlink_to(target)
        assert (tree / "a" / "b" / name).is_file()
    assert packages.compile_python(tree, TARGET.interpreter)
    compiled = [path for path in tree.rglob("*.pyc") if "own" not in path.name]
    assert [path.name.split(".")[0] for path in compiled] == ["within"]
    assert not any(b"topsecret" in path.read_bytes() for path in tree.rglob("*.pyc"))


@promise("M24")
@pytest.mark.parametrize("interpreter", ["/usr/bin/python3.13 --index-url=x", "/bin/--target=/etc"])
def test_a_version_that_the_server_names_is_no_option(tmp_path: Path, interpreter: str) -> None:
    target = packages.Target(interpreter=interpreter, architecture="x86_64", glibc=41)
    with pytest.raises(BadParameter, match="packages need a Python called"):
        packages.install_python(written(tmp_path, "flask"), tmp_path / "tree", target)


# --- requirements.txt --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "flask",
        "Flask-SQLAlchemy==3.1.1",
        "uvicorn[standard,extra] >= 0.30, < 1 ; python_version > '3.8'",
        "jinja2 (~=3.1)",
        "certifi==2024.1.1 --hash=sha256:00ff --hash=sha256:11ee",
        "https://example.org/pool/demo-1.0-py3-none-any.whl",
        "demo @ https://example.org/demo-1.0-py3-none-any.whl#sha256=00ff ; python_version > '3'",
        "demo[x] @ https://example.org/demo%2D1.0-py3-none-any%2Ewhl",
        "file:///srv/demo-1.0-py3-none-any.whl",
        "--require-hashes",
        "--pre",
        "--prefer-binary",
    ],
)
def test_packages_and_wheels_are_handed_on(tmp_path: Path, line: str) -> None:
    assert requirements.read(written(tmp_path, line)) == f"{line}\n"


def written(directory: Path, text: str) -> Path:
    path = directory / "requirements.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-e.", "-e is refused"),
        ("--editable=./pkg", "--editable is refused"),
        ("--no-binary :all:", "build packages"),
        ("--only-binary=:none:", "--only-binary is refused"),
        ("-rother.txt", "another file"),
        ("--requirement https://example.org/r.txt", "another file"),
        ("-c constraints.txt", "another file"),
        ("-i https://example.org/simple", "PIP_INDEX_URL"),
        ("--index-url=https://example.org/simple", "PIP_INDEX_URL"),
        ("--extra-index-url https://example.org/simple", "PIP_EXTRA_INDEX_URL"),
        ("--find-links ./wheels", "PIP_FIND_LINKS"),
        ("--trusted-host example.org", "PIP_TRUSTED_HOST"),
        ("--use-feature=fast-deps", "--use-feature is refused"),
        ("--pre flask", "--pre is refused"),
        ("flask --config-settings=a=b", "--config-settings=a=b is refused"),
        ("flask --no-binary :all:", "--no-binary is refused"),
        (".", ". is not a wheel"),
        ("./pkg", "./pkg is not a wheel"),
        ("../pkg[extra]", "is not a wheel"),
        ("mark-1.0.tar.gz", "mark-1.0.tar.gz is not a wheel"),
        ("mark-1.0.zip ; python_version > '3'", "is not a wheel"),
        ("mark @ ./mark", "./mark is not a wheel"),
        ("mark @ file:///srv/mark", "file:///srv/mark is not a wheel"),
        ("mark@file:///srv/mark-1.0.tar.gz", "is not a wheel"),
        ("mark @ file:///srv/mark#egg=x.whl", "is not a wheel"),
        ("mark @ https://example.org/mark?x=.whl", "is not a wheel"),
        ("git+https://example.org/mark.whl", "is not a wheel"),
        ("mark @ git+ssh://git@example.org/mark@main", "is not a wheel"),
        ("ftp://example.org/mark.whl", "is not a wheel"),
        ("file://elsewhere/srv/mark.whl", "another machine"),
        ("mark.whl", "there is no wheel"),
        ("https://example.org/${AWS_SECRET_ACCESS_KEY}/mark.whl", "reads? a variable"),
        ("flask\x0b-e .", "invisible characters"),
    ],
)
def test_what_could_run_code_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "pkg").mkdir()
    file = written(tmp_path, f"# names\nflask==\\\n3\n\n{line}\n")
    with pytest.raises(BadParameter, match=reason) as refused:
        requirements.read(file)
    assert f"{file}, line 5: " in str(refused.value)


def test_what_is_joined_counts_as_its_first_line(tmp_path: Path) -> None:
    file = written(tmp_path, "flask # a comment\r\n-\\\r\n-no-binary \\\r\n:all:\r\n")
    with pytest.raises(BadParameter, match="line 2: --no-binary"):
        requirements.read(file)


def test_a_wheel_beside_the_file_is_found_from_everywhere(tmp_path: Path) -> None:
    wheel = a_wheel(tmp_path)
    file = written(tmp_path, f"./{wheel.name} ; python_version > '3'\n{wheel.name}\n")
    assert requirements.read(file) == f"{wheel} ; python_version > '3'\n{wheel}\n"


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_bytes("flask".encode("utf-16"))
    with pytest.raises(BadParameter, match="UTF-8"):
        requirements.read(path)


# --- sources of the packages -------------------------------------------------------------------


def as_repository(directory: Path) -> None:
    for words in ("init -q .", "add -A", "-c user.name=x -c user.email=x@y commit -qm x"):
        subprocess.run(["git", *words.split()], cwd=directory, check=True, capture_output=True)


def a_wheel_that_wants(directory: Path, source: str) -> Path:
    """A wheel that depends on the package at the address `source`."""
    return a_wheel(directory, "wants", about=f"Requires-Dist: mark @ {source}\n")


@pytest.mark.usefixtures("tool")
@pytest.mark.parametrize("scheme", ["", "git+"])
def test_a_wheel_cannot_have_its_dependency_built(tmp_path: Path, scheme: str) -> None:
    marker = tmp_path / "it-ran"
    builder = a_builder(tmp_path / "mark", marker)
    if scheme:
        as_repository(builder)
    wheel = a_wheel_that_wants(tmp_path, f"{scheme}{builder.as_uri()}")
    with pytest.raises(BadParameter, match="could not be installed"):
        packages.install_python(written(tmp_path, str(wheel)), tmp_path / "tree", TARGET)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("said", "is_hinted"),
    [
        ("Because demo has no wheels with a matching Python version tag, it cannot be used", True),
        ("ERROR: No matching distribution found for demo", True),
        ("No solution found when resolving dependencies", True),
        ("Request failed after 3 retries\nFailed to fetch: `https://a.example/demo/`", False),
        ("dns error: failed to lookup address information: Name or service not known", False),
        ("NewConnectionError: [Errno 111] Connection refused\nNo matching distribution", False),
        ("npm error code ENOTFOUND", False),
    ],
)
def test_what_is_lacking_is_said_only_if_the_registry_was_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, is_hinted: bool
) -> None:
    done = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(tools, "run", lambda *_: done)
    with pytest.raises(BadParameter) as error:
        packages._run(["installer"], tmp_path, ("the packages", packages.NO_WHEEL))
    assert ("must have a wheel" in str(error.value)) == is_hinted


def test_pip_by_itself_would_have_built_it(tmp_path: Path) -> None:
    """Negative control: `--only-binary :all:` does not keep pip from building a dependency at an
    address.
    """
    marker = tmp_path / "it-ran"
    wheel = a_wheel_that_wants(tmp_path, a_builder(tmp_path / "mark", marker).as_uri())
    command = [sys.executable, "-I", "-m", "pip", "install", "--only-binary", ":all:"]
    subprocess.run(
        [*command, "--target", str(tmp_path / "tree"), str(wheel)], check=False, capture_output=True
    )
    assert marker.exists()


def test_no_planted_settings(tmp_path: Path, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "it-ran"
    builder = a_builder(tmp_path / "mark", marker)
    app = tmp_path / "app"
    app.mkdir()
    for name in ("pip.py", "subprocess.py", "sitecustomize.py"):
        (app / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
    (app / "uv.toml").write_text("no-binary-package = ['demo']\n")
    (app / "pyproject.toml").write_text("[tool.uv.pip]\nno-binary = [':all:']\n")
    config = tmp_path / "pip.conf"
    config.write_text(f"[install]\neditable = {builder}\nno-binary = :all:\n")
    monkeypatch.chdir(app)
    monkeypatch.setenv("PYTHONPATH", str(app))
    monkeypatch.setenv("PIP_EDITABLE", str(builder))
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    monkeypatch.setenv("UV_NO_BINARY", "1")
    file = written(app, f"{a_wheel(tmp_path)}\n")
    packages.install_python(file, tmp_path / "tree", TARGET)
    assert (tmp_path / "tree" / "site-packages" / "demo.py").exists()
    if tool == "pip":
        monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
        with pytest.raises(BadParameter, match="could not be installed"):
            packages.install_python(file, tmp_path / "tree2", TARGET)
    assert not marker.exists()


def test_the_installers_see_registries_and_proxies_of_the_environment() -> None:
    mine = {"PIP_INDEX_URL": "a", "UV_DEFAULT_INDEX": "b", "UV_INDEX_X_PASSWORD": "c"}
    mine |= {"HTTPS_PROXY": "d", "SSL_CERT_FILE": "e", "HOME": "f", "PIP_CERT": "g"}
    others = {"PIP_EDITABLE": "a", "PIP_REQUIREMENT": "b", "UV_NO_BUILD": "0", "PYTHONPATH": "c"}
    others |= {"PYTHONSTARTUP": "d", "UV_CONFIG_FILE": "e", "PIP_TARGET": "f", "UV_CONSTRAINT": "g"}
    others |= {"NODE_OPTIONS": "a", "QUILT_API_KEY": "b", "AWS_SECRET_ACCESS_KEY": "c"}
    others |= {"npm_config_git": "d", "npm_config_script_shell": "e", "NPM_CONFIG_PREFIX": "f"}
    assert packages.environment({**mine, **others}) == mine


def test_npm_gets_variables_of_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".npmrc").write_text("//registry.example.org/:_authToken=${MY_TOKEN}\n")
    mine = {"HOME": str(tmp_path), "MY_TOKEN": "a", "npm_config_registry": "b"}
    assert packages.environment({**mine, "OTHER_TOKEN": "c"}) == mine
    monkeypatch.chdir(tmp_path)
    for home in ("", "."):
        assert "MY_TOKEN" not in packages.environment({**mine, "HOME": home}), "of a directory"
    on_windows = {"USERPROFILE": str(tmp_path), "MY_TOKEN": "a"}
    assert packages.environment(on_windows) == on_windows


# --- package.json ------------------------------------------------------------------------------


def package(directory: Path, source: str, section: str = "dependencies") -> None:
    (directory / "package.json").write_text(
        f'{{\n  "name": "x",\n  "{section}": {{\n    "dep": "{source}"\n  }}\n}}\n'
    )


@pytest.mark.parametrize(
    "source",
    [
        *("^1.0.0", "*", "latest", ">=1 <2 || ~3.1", "npm:other@1", "npm:@scope/other"),
        *("file:./dep", "file:dep.tgz", "./dep", "https://example.org/dep-1.0.tgz"),
        "https://github.com/owner/dep/archive/refs/tags/v1.tar.gz",
    ],
)
def test_what_npm_takes_from_a_registry_or_an_archive_is_taken(tmp_path: Path, source: str) -> None:
    package(tmp_path, source)
    manifest.check(tmp_path)


REPOSITORIES_AND_PLACES = """
git+https://example.org/dep.git git+ssh://git@example.org/dep.git#semver:^1
git://example.org/dep.git git@github.com:owner/dep.git ssh://git@example.org/dep
github:owner/dep gitlab:owner/dep gist:0123456789 x@github:owner/dep
owner/dep owner/dep#0123456789012345678901234567890123456789 ~owner/dep owner/dep.tgz
https://github.com/owner/dep https://example.org/dep.git https://github.com/owner/dep.tgz
https://www.github.com/owner/dep/tree/x.tgz https://github.com/owner/dep/archive/../../x/y.tgz
https://gitlab.com/owner/dep.tgz https://bitbucket.org/owner/dep/x.tgz
https://git%68ub.com/owner/dep.tgz
file:../dep file:/srv/dep file:~/dep file:%2e%2e/dep ../dep.tgz ..
"""


@pytest.mark.parametrize("source", REPOSITORIES_AND_PLACES.split())
@pytest.mark.parametrize("section", ["dependencies", "optionalDependencies", "overrides"])
def test_a_repository_is_refused_by_its_line(tmp_path: Path, source: str, section: str) -> None:
    package(tmp_path, source, section)
    with pytest.raises(BadParameter, match=r"package\.json, line 4: dep: "):
        manifest.check(tmp_path)


@pytest.mark.parametrize("name", manifest.LOCKS)
def test_a_repository_in_a_lock_file_is_refused(tmp_path: Path, name: str) -> None:
    package(tmp_path, "^1.0.0")
    registry = '"node_modules/a": {"version": "1.0.0", "resolved": "https://example.org/a-1.tgz"}'
    lock = '{"packages": {\n%s,\n"node_modules/dep": {"resolved": "%s"}}}'
    (tmp_path / name).write_text(lock % (registry, "https://example.org/dep-1.tgz"))
    manifest.check(tmp_path)
    (tmp_path / name).write_text(lock % (registry, "git+ssh://git@example.org/dep.git#0123"))
    with pytest.raises(BadParameter, match=r"line 3: node_modules/dep: git\+ssh"):
        manifest.check(tmp_path)


def test_npm_settings_of_the_directory_are_refused(tmp_path: Path) -> None:
    package(tmp_path, "^1.0.0")
    (tmp_path / ".npmrc").write_text("git=./evil.sh\n")
    with pytest.raises(BadParameter, match=r"\.npmrc is refused"):
        manifest.check(tmp_path)


@pytest.mark.skipif(not (shutil.which("npm") and shutil.which("git")), reason="needs npm and git")
def test_a_repository_behind_a_dependency_is_not_prepared(tmp_path: Path) -> None:
    marker, evil, app = tmp_path / "it-ran", tmp_path / "evil", tmp_path / "app"
    evil.mkdir()
    (evil / "package.json").write_text(
        f'{{"name": "evil", "version": "1.0.0", "scripts": {{"prepare": "touch {marker}"}}}}'
    )
    as_repository(evil)
    (app / "dep").mkdir(parents=True)
    wanted = {"evil": f"git+{evil.as_uri()}"}
    (app / "dep" / "package.json").write_text(
        json.dumps({"name": "dep", "version": "1.0.0", "dependencies": wanted})
    )
    package(app, "file:./dep")
    with pytest.raises(BadParameter, match="could not be installed"):
        packages.install_node(app)
    assert not marker.exists()
    # Negative control: npm alone would run the script `prepare` of the package.
    subprocess.run(["npm", "install", "--no-audit"], cwd=app, check=True, capture_output=True)
    assert marker.exists()


# --- pnpm --------------------------------------------------------------------------------------

INTEGRITY = "integrity: sha512-Wu1VHeILBK8KAWJUAiSZQX94GmOE45Rg6/538fKwiloUu21KncEk=="


def pnpm_lock(directory: Path, resolution: str) -> Path:
    path = directory / "pnpm-lock.yaml"
    packages_ = f"packages:\n\n  demo@1.0.0:\n    resolution: {resolution}\n"
    path.write_text(f"lockfileVersion: '9.0'\n\n{packages_}")
    return path


@promise("R7")
@pytest.mark.parametrize(
    "resolution",
    [
        "{commit: 0123456789, repo: https://example.org/demo.git, type: git}",
        "{directory: demo, type: directory}",
        "{tarball: https://codeload.example.org/demo/tar.gz/main}",
        f"{{{INTEGRITY}, tarball: https://example.org/demo}}",
        f"{{{INTEGRITY}, tarball: git+ssh://example.org/demo.tgz}}",
        f"{{{INTEGRITY}, type: git}}",
        "\n      type: git\n      repo: https://example.org/demo.git",
        "&one {type: git}",
    ],
)
def test_what_pnpm_would_build_is_refused_by_its_line(tmp_path: Path, resolution: str) -> None:
    for taken in ("", ", tarball: https://example.org/demo-1.0.0.tgz"):
        manifest.check_pnpm(pnpm_lock(tmp_path, f"{{{INTEGRITY}{taken}}}"))
    with pytest.raises(BadParameter, match=r"pnpm-lock\.yaml, line 6: resolution:"):
        manifest.check_pnpm(pnpm_lock(tmp_path, resolution))


REPOSITORY_OF_PNPM = "{type: git, repo: https://example.org/demo.git, commit: a}"


@pytest.mark.parametrize(
    "lines",
    [
        f'"\\x72esolution": {REPOSITORY_OF_PNPM}',
        f'"resol\\\n      ution": {REPOSITORY_OF_PNPM}',
        f"'#': {{resolution: {REPOSITORY_OF_PNPM}}}",
        f'resolution: {{{INTEGRITY}, tarball: https://a/a.tgz,"type":"git","x":"b.tgz"}}',
        f"resolution: {{{INTEGRITY}}}\u2028, type: git}}",
    ],
)
def test_no_other_notation_of_yaml_hides_it(tmp_path: Path, lines: str) -> None:
    lock = pnpm_lock(tmp_path, f"{{{INTEGRITY}}}")
    manifest.check_pnpm(lock)
    lock.write_text(f"{lock.read_text()}\n  other@1.0.0:\n    {lines}\n")
    with pytest.raises(BadParameter, match=r"pnpm-lock\.yaml, line (8|9): "):
        manifest.check_pnpm(lock)


def test_pnpm_sees_what_names_packages_and_nothing_else(tmp_path: Path) -> None:
    said = {
        "name": "x",
        "scripts": {"postinstall": "touch it-ran"},
        "dependencies": {"demo": "1.0.0"},
        "pnpm": {"overrides": {"a": "1"}, "configDependencies": {"hook": "1.0.0"}},
        "packageManager": "pnpm@1.2.3",
    }
    (tmp_path / "package.json").write_text(json.dumps(said))
    assert json.loads(manifest.naming(tmp_path / "package.json")) == {
        "name": "x",
        "dependencies": {"demo": "1.0.0"},
        "pnpm": {"overrides": {"a": "1"}},
    }


def test_pnpm_is_asked_where_only_its_lock_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    assert not manifest.is_of_pnpm(tmp_path)
    pnpm_lock(tmp_path, f"{{{INTEGRITY}}}")
    assert manifest.is_of_pnpm(tmp_path)
    assert {path.name for path in manifest.files_of(tmp_path)} == {"package.json", "pnpm-lock.yaml"}
    (tmp_path / "package-lock.json").write_text("{}")
    assert not manifest.is_of_pnpm(tmp_path)


@pytest.mark.parametrize("installer", ["npm", "pnpm"])
def test_no_installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: str) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda *_, **__: None)  # type: ignore[attr-defined]
    (tmp_path / "package.json").write_text("{}")
    if installer == "pnpm":
        pnpm_lock(tmp_path, f"{{{INTEGRITY}}}")
    with pytest.raises(BadParameter, match=f"needs {installer}, which is not installed"):
        packages.install_node(tmp_path)


def test_pnpm_installs_without_hooks_or_settings_of_the_directory(tmp_path: Path) -> None:
    if shutil.which("pnpm") is None:
        pytest.skip("needs pnpm")
    marker, app = tmp_path / "it-ran", tmp_path / "app"
    app.mkdir()
    hook = f"require('fs').writeFileSync({json.dumps(str(marker))}, ''); module.exports = {{}};"
    (app / ".pnpmfile.cjs").write_text(hook)
    (app / "pnpm-workspace.yaml").write_text(f"scriptShell: {marker}\npnpmfile: .pnpmfile.cjs\n")
    script = {"preinstall": f"touch {marker}", "postinstall": f"touch {marker}"}
    (app / "package.json").write_text(json.dumps({"name": "x", "scripts": script}))
    (app / "pnpm-lock.yaml").write_text(
        "lockfileVersion: '9.0'\n\nsettings:\n  autoInstallPeers: true\n"
        "  excludeLinksFromLockfile: false\n\nimporters:\n\n  .: {}\n"
    )
    packages.install_node(app)
    assert not marker.exists()
