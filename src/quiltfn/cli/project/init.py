"""`quiltfn init`: a small project that can be deployed as it is."""

import os
import re
import shlex
from pathlib import Path
from typing import Annotated

from msgspec import Struct

from quiltfn.cli import show
from quiltfn.cli.parsing import Argument, BadParameter, Exit, Option
from quiltfn.cli.project import PROJECT_FILE, toml
from quiltfn.cli.project.file import SCHEDULES
from quiltfn.wire import NewSchedule
from quiltfn.wire.check import Invalid, checked
from quiltfn.wire.functions import RESERVED_FUNCTION_NAMES

FALLBACK = "hello"
PYTHON = """\
def handler(event, context):
    # event is the payload or, if the function's URL is requested, the HTTP request.
    # Printed text goes to the log; the return value is the result.
    print("called with", event)
    return {"message": "Hello!"}
"""
NODE = """\
exports.handler = async (event, context) => {
  // event is the payload or, if the function's URL is requested, the HTTP request.
  // Printed text goes to the log; the return value is the result.
  console.log("called with", event);
  return { message: "Hello!" };
};
"""
SHELL = """\
# Standard input is the payload; standard output is the result.
echo "Hello! You sent: $(cat)"
"""
FILE = """\
# `quiltfn deploy` deploys what this file describes.
project = "{name}"

[functions.{name}]
{fields}

[functions.{name}.url]
auth = "key"
"""
OWN_FILES = 'code = "."\nhandler = "{handler}"'
IMAGE = "docker.io/library/alpine:3.22"


class KindOptions(Struct, frozen=True, kw_only=True):
    """The function's language (default: Python)."""

    python: Annotated[bool, Option(help="Python handler.")] = False
    node: Annotated[bool, Option(help="JavaScript handler.")] = False
    shell: Annotated[bool, Option(help="Shell script.")] = False
    image: Annotated[bool, Option(help=f"Script in a container image: {IMAGE}.")] = False

    def files(self) -> tuple[str, str, str]:
        """The fields of the function, the handler's file name and its content. Raises
        `BadParameter`.
        """
        if sum((self.python, self.node, self.shell, self.image)) > 1:
            raise BadParameter("use only one of --python, --node, --shell and --image")
        if self.node:
            return _fields("node", "main:handler"), "main.js", NODE
        if self.shell or self.image:
            fields = _fields("shell", "sh /app/hello.sh")
            return f'image = "{IMAGE}"\n' * self.image + fields, "hello.sh", SHELL
        return _fields("python", "main:handler"), "main.py", PYTHON


class PartOptions(Struct, frozen=True, kw_only=True):
    """Optional parts of the project, in addition to the handler and its URL."""

    package: Annotated[
        list[str] | None,
        Option(metavar="REQUIREMENT", help="Python package to install; repeatable."),
    ] = None
    cron: Annotated[
        str | None,
        Option(metavar="EXPRESSION", help="Cron schedule in UTC: '0 7 * * *'."),
    ] = None

    def requirements(self, handler: str) -> str | None:
        """The text of requirements.txt. Raises `BadParameter`."""
        if not self.package:
            return None
        if not handler.endswith(".py"):
            raise BadParameter("--package requires --python; for Node, use a package.json")
        return "".join(f"{one}\n" for one in self.package)

    def check_cron(self, name: str) -> None:
        """Raises `BadParameter`."""
        try:
            checked({"name": name, "function": name, "cron": self.cron}, NewSchedule)
        except Invalid as error:
            raise BadParameter(f"--{error.message}") from None


def init(
    directory: Annotated[
        Path, Argument(metavar="DIR", help="Target directory (default: current).")
    ] = Path(),
    *,
    kind: KindOptions,
    parts: PartOptions,
) -> None:
    """Create a small project: quiltfn.toml and one handler. No file is ever overwritten."""
    fields, handler, source = kind.files()
    requirements = parts.requirements(handler)
    name = project_name(directory)
    text = FILE.format(name=name, fields=fields)
    if parts.cron is not None:
        parts.check_cron(name)
        table = toml.table(["functions", name, SCHEDULES, name], {"cron": parts.cron})
        text += "\n".join(["", *table, ""])
    files = {directory / PROJECT_FILE: text, directory / handler: source}
    if requirements is not None:
        files[directory / "requirements.txt"] = requirements
    there = [str(path) for path in files if os.path.lexists(path)]
    if there:
        verb = "exists" if len(there) == 1 else "exist"
        show.complain(f"{' and '.join(there)} already {verb}", "nothing was written")
        raise Exit(1)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
            show.say(f"wrote {path}")
    except OSError as error:
        show.complain(f"{error.filename} cannot be written: {error.strerror}")
        raise Exit(1) from None
    where = "" if directory == Path() else f" {shlex.quote(str(directory))}"
    show.note(f"deploy it with: quiltfn deploy{where}")


def project_name(directory: Path) -> str:
    """The name of the project and its function, derived from the directory's name."""
    word = re.sub("[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")
    word = word[:32].strip("-")
    return FALLBACK if not word or word in RESERVED_FUNCTION_NAMES else word


def _fields(kind: str, handler: str) -> str:
    return f'kind = "{kind}"\n{OWN_FILES.format(handler=handler)}'
