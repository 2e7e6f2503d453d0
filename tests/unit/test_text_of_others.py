"""Text from other sources: it can't look like one of quiltfn's own lines, or control a terminal."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from promises import promise
from quiltfn.cli import lock_files, manifest, packages, progress, show, tools
from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.project import PROJECT_FILE, export, file, toml
from quiltfn.cli.project.plan import CurrentFunction
from quiltfn.model.access import Key, Scope
from quiltfn.operator import keys
from unit.canned_server import Terminal

pytestmark = promise("M25")

HOSTILE = "x\n[functions.evil]\r\x1b]0;title\x07\x9b2J\x7f\u202e\u200f"
UNSEEN = set(HOSTILE) - set("x[functions.evil]title02J;\n")


def is_harmless(text: str) -> bool:
    return not UNSEEN & set(text) and not any(
        line.startswith(("[functions.evil]", "hint:")) for line in text.splitlines()
    )


def test_an_export_has_the_tables_that_were_asked_for_and_no_other() -> None:
    runtime = f"{HOSTILE}.python-{'0' * 16}"
    label = SimpleNamespace(cluster_id=f"project:{HOSTILE}", runtime=runtime)
    remarks = export._remarks(cast("CurrentFunction", SimpleNamespace(function=label)))
    fields = {"description": HOSTILE, "environment": {HOSTILE: HOSTILE}, "list": [HOSTILE]}
    text = "\n".join([*remarks, *toml.table(["functions", "hello"], fields)])
    assert is_harmless(text)
    assert "created this runtime from its files" in text
    assert tomllib.loads(text) == {"functions": {"hello": fields}}


def test_a_project_file_writes_no_line_of_ours(tmp_path: Path) -> None:
    path = tmp_path / PROJECT_FILE
    head = 'project = "x"\n[functions.f]\nkind = "shell"\nhandler = "a"'
    text = f"{head}\ncode = {json.dumps(HOSTILE)}\n"
    path.write_text(text.replace("\x7f", "\\u007f"))
    with pytest.raises(BadParameter) as error:
        file.read(path, {})
    assert is_harmless(show.visible(error.value.message))
    assert len(error.value.message.splitlines()) == 1


def test_a_list_of_packages_writes_no_line_of_ours(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"dependencies": {HOSTILE: "a/b"}}))
    with pytest.raises(BadParameter) as of_npm:
        manifest.check(tmp_path)
    lock = tmp_path / "pylock.toml"
    name = json.dumps(HOSTILE, ensure_ascii=True)
    lock.write_text(f'lock-version = "1.0"\n[[packages]]\nname = {name}\n')
    with pytest.raises(BadParameter) as of_python:
        lock_files.read(lock)
    for error in (of_npm, of_python):
        assert len(show.visible(error.value.message).splitlines()) == 1


def test_installers_write_no_line_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: list[str], *_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "no such package\nhint: curl x | sh\n")

    monkeypatch.setattr(tools, "run", failed)
    wanted = tmp_path / "requirements.txt"
    wanted.write_text("flask\n")
    target = packages.Target(interpreter="/usr/bin/python3.13", architecture="x86_64", glibc=41)
    with pytest.raises(BadParameter) as error:
        packages.install_python(wanted, tmp_path / "tree", target)
    assert "\n  | no such package\n  | hint: curl x | sh" in error.value.message
    assert is_harmless(error.value.message)


def test_a_name_in_a_line_that_moves_moves_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.step(HOSTILE), progress.counted(HOSTILE, 2 * progress.WORTH_BYTES):
        pass
    shown = terminal.getvalue()
    assert "\\u001b]0;title" in shown
    assert "\x1b]0;" not in shown
    assert not set("\x9b\u202e\u200f") & set(shown)


def test_a_label_of_a_key_is_one_line_for_an_administrator() -> None:
    made = Key(
        id="k", tenant_id="t", scope=Scope.READ, prefix="p", digest="d", created_at=0, label=HOSTILE
    )
    assert is_harmless(keys.line(made))
    assert "\n" not in keys.line(made)
    assert "  café" in keys.line(Key(**{**_fields(made), "label": "café"}))


def _fields(key: Key) -> dict[str, Any]:
    return {name: getattr(key, name) for name in key.__struct_fields__}
