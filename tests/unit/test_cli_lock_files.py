"""Lists of Python packages in each format: what the installer gets, and what is refused."""

import shutil
import sys
from pathlib import Path

import pytest

from promises import promise
from quiltfn.cli import lock_files, packages, runtime_files
from quiltfn.cli.parsing import BadParameter
from unit.canned_server import INFO
from unit.command_line import CommandLine
from unit.sample_archives import a_wheel

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SUM, OTHER = "ab" * 32, "cd" * 32
HEAD = 'lock-version = "1.0"\ncreated-by = "test"\n'
WHEEL = f'wheels = [{{ url = "https://x.test/a.whl", hashes = {{ sha256 = "{SUM}" }} }}]\n'
NEEDS_UV = pytest.mark.skipif(not (Path(sys.executable).parent / "uv").exists(), reason="needs uv")


def pylock(directory: Path, *packages_: str, head: str = HEAD) -> Path:
    path = directory / "pylock.toml"
    path.write_text(head + "".join(f"[[packages]]\n{one}" for one in packages_))
    return path


def a_package(name: str = "demo", more: str = WHEEL) -> str:
    return f'name = "{name}"\nversion = "1.0"\n{more}'


def test_a_pep_751_lock_file_becomes_exact_requirements_and_hashes(tmp_path: Path) -> None:
    two = WHEEL.replace("]\n", f', {{ path = "b.whl", hashes = {{ sha256 = "{OTHER}" }} }}]\n')
    win = a_package("win", f"marker = \"sys_platform == 'win32'\"\n{WHEEL}")
    listed = lock_files.read(pylock(tmp_path, a_package(more=two), win))
    assert listed.is_complete
    assert listed.text.splitlines() == [
        f"demo==1.0 --hash=sha256:{SUM} --hash=sha256:{OTHER}",
        f"win==1.0 ; sys_platform == 'win32' --hash=sha256:{SUM}",
    ]


@pytest.mark.parametrize(
    ("name", "content", "is_list"),
    [
        ("poetry.lock", "", True),
        ("pyproject.toml", '[project]\ndependencies = ["x"]\n', True),
        ("pyproject.toml", "[tool.ruff]\nline-length = 100\n", False),
        ("pyproject.toml", "broken [", False),
        ("pyproject.toml", "project = 1\n", False),
    ],
)
def test_a_list_that_is_not_read_is_told(
    cli: CommandLine, tmp_path: Path, name: str, content: str, is_list: bool
) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / name).write_text(content)
    printed = cli.run(f"runtimes add etl --kind server --dir {tmp_path}", code=1)
    note = f"no packages are installed: {tmp_path / name} is not supported"
    assert (note in printed.err) is is_list


@pytest.mark.parametrize("name", ["poetry.lock", "Pipfile.lock", "pyproject.toml", "conda.yml"])
def test_a_list_of_another_tool_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(HEAD)
    with pytest.raises(
        BadParameter, match=rf"{name} is not a supported list .pylock.toml, uv.lock, requ"
    ):
        lock_files.read(tmp_path / name)
    assert lock_files.find(tmp_path) is None


@promise("R7")
@pytest.mark.parametrize(
    ("package", "reason"),
    [
        (
            'name = "demo"\nversion = "1.0"\nsdist = { url = "https://x.test/a.tar.gz" }\n',
            "no wheel",
        ),
        ('name = "demo"\ndirectory = { path = "." }\n', "no wheel"),
        ('name = "demo"\nvcs = { type = "git", url = "https://x.test" }\n', "no wheel"),
        (f'name = "demo"\n{WHEEL}', "no wheel"),
        ('version = "1.0"\n', "a name"),
        (a_package(more='wheels = [{ url = "https://x.test/a.whl" }]\n'), "no sha256"),
        (a_package(more=f"marker = \"'dev' in dependency_groups\"\n{WHEEL}"), "extras or groups"),
        (a_package("-e ."), "line 1"),
        (a_package("demo @ git+https://x.test/a"), "not a wheel"),
        (a_package("demo --no-binary :all: #"), "line 1"),
        (a_package(more=f"marker = \"os_name == 'x'\\n-e .\"\n{WHEEL}"), "line 2: -e is refused"),
    ],
)
def test_what_would_run_code_is_refused(tmp_path: Path, package: str, reason: str) -> None:
    with pytest.raises(BadParameter, match=reason):
        lock_files.read(pylock(tmp_path, package))


@pytest.mark.parametrize("head", ["", 'lock-version = "2.0"\n', "lock-version = 1.0\n", "no toml"])
def test_a_file_of_another_format_is_refused(tmp_path: Path, head: str) -> None:
    with pytest.raises(BadParameter, match=r"lock-version 1\.0|cannot be read"):
        lock_files.read(pylock(tmp_path, a_package(), head=head))


def test_what_is_locked_goes_before_what_is_not(tmp_path: Path) -> None:
    assert lock_files.find(tmp_path) is None
    for name in ("requirements.txt", "uv.lock", "pylock.toml"):
        (tmp_path / name).write_text("")
        assert lock_files.find(tmp_path) == tmp_path / name
    assert not lock_files.read(tmp_path / "requirements.txt").is_complete


@pytest.mark.parametrize(
    ("link", "beside"), [("requirements.txt", ""), ("uv.lock", ""), ("pyproject.toml", "uv.lock")]
)
@pytest.mark.parametrize("leads_out", [True, False])
def test_no_list_outside_is_read(tmp_path: Path, link: str, beside: str, leads_out: bool) -> None:
    """A list must not be a link to a file outside of the directory. The link may lead through a
    subdirectory that is not copied, in which links are not checked otherwise.
    """
    code = tmp_path / "code"
    (code / ".venv").mkdir(parents=True)
    target = (tmp_path if leads_out else code) / "list"
    target.write_text("s3cr3t-token-of-mine\n")
    (code / ".venv" / "list").symlink_to(target)
    (code / link).symlink_to(".venv/list")
    if beside:
        (code / beside).write_text("")
    if leads_out:
        with pytest.raises(BadParameter, match="leads out of"):
            lock_files.find(code)
    else:
        assert lock_files.find(code) == code / (beside or link)


PROJECT = (
    '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["demo"]\n'
)
UV_LOCK = f"""
version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "demo"
version = "1.0"
source = {{ registry = "https://x.test/simple" }}
wheels = [{{ url = "https://x.test/demo-1.0-py3-none-any.whl", hash = "sha256:{SUM}" }}]

[[package]]
name = "mine"
version = "1"
source = {{ virtual = "." }}
dependencies = [{{ name = "demo" }}]

[package.metadata]
requires-dist = [{{ name = "demo" }}]
"""


def uv_lock(directory: Path, text: str = UV_LOCK, project: str | None = PROJECT) -> Path:
    if project is not None:
        (directory / "pyproject.toml").write_text(project)
    (directory / "uv.lock").write_text(text)
    return directory / "uv.lock"


@NEEDS_UV
def test_a_lock_file_of_uv_is_read_without_the_project_itself(tmp_path: Path) -> None:
    listed = lock_files.read(uv_lock(tmp_path))
    assert listed == lock_files.Listed(f"demo==1.0 --hash=sha256:{SUM}\n", is_complete=True)


@NEEDS_UV
def test_a_repository_in_it_is_refused(tmp_path: Path) -> None:
    source = (
        'source = { git = "https://x.test/demo?rev=main#0123456789012345678901234567890123456789" }'
    )
    text = UV_LOCK.replace('source = { registry = "https://x.test/simple" }', source)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("wheels"))
    with pytest.raises(BadParameter, match="is not a wheel"):
        lock_files.read(uv_lock(tmp_path, text))


@NEEDS_UV
def test_the_project_of_a_lock_file_is_never_built(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    (tmp_path / "backend.py").write_text(f"open({str(marker)!r}, 'w')\n")
    builder = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    lock_files.read(uv_lock(tmp_path, UV_LOCK.replace("virtual", "editable"), PROJECT + builder))
    assert not marker.exists()


def test_what_is_missing_beside_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (Path(sys.executable).parent / "uv").exists():
        with pytest.raises(BadParameter, match=r"in one directory with the pyproject\.toml"):
            lock_files.read(uv_lock(tmp_path, project=None))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(BadParameter, match="uv export"):
        lock_files.read(uv_lock(tmp_path))


# Wheels for the server's machine -------------------------------------------------------------


def test_the_tags_of_wheels_are_those_of_the_servers_machine() -> None:
    arm = packages.platforms("aarch64", 18)
    assert arm == [
        *("manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
        "linux_aarch64",
    ]
    intel = packages.platforms("x86_64", 41)
    assert intel[0] == "manylinux_2_41_x86_64"
    assert {"manylinux_2_5_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"} < set(intel)


@pytest.mark.usefixtures("offline", "tool")
def test_a_wheel_of_the_servers_processor_is_taken_and_no_other(tmp_path: Path) -> None:
    wheel = a_wheel(tmp_path, tag="py3-none-manylinux_2_17_aarch64")
    listed = tmp_path / "requirements.txt"
    listed.write_text(f"{wheel}\n")
    arm = packages.Target(interpreter=f"/usr/bin/python{VERSION}", architecture="aarch64", glibc=36)
    packages.install_python(listed, tmp_path / "arm", arm)
    assert (tmp_path / "arm/site-packages/demo.py").exists()
    intel = packages.Target(interpreter=arm.interpreter, architecture="x86_64", glibc=36)
    with pytest.raises(BadParameter, match="could not be installed"):
        packages.install_python(listed, tmp_path / "intel", intel)


@pytest.mark.parametrize(
    ("info", "glibc"),
    [({"libc": "glibc 2.36"}, 36), ({"libc": "musl 1.2"}, None), ({}, None)],
)
def test_the_server_says_what_its_machine_is(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, info: dict[str, str], glibc: int | None
) -> None:
    target = packages.Target(interpreter="/usr/bin/python3.13", architecture="riscv64", glibc=glibc)

    def key_of(_source: object, found: packages.Target | None) -> None:
        raise BadParameter("as expected" if found == target else str(found))

    monkeypatch.setattr(runtime_files, "key_of", key_of)
    machine = INFO | {"interpreters": {"python": target.interpreter}, "architecture": "riscv64"}
    cli.answers["GET", "/api/system/info"] = (200, machine | info)
    line = f"runtimes add x --kind python --requirements {__file__}"
    assert "as expected" in cli.run(line, code=2).err
