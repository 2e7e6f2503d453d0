"""`quiltfn init`: a small project that can be deployed as it is."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from quiltfn.cli import show
from quiltfn.cli.parsing import Argument, BadParameter, Exit, Option
from quiltfn.cli.project.file import NAME
from quiltfn.wire.functions import RESERVED_FUNCTION_NAMES

FALLBACK = "hello"
PYTHON = """\
def handler(event, context):
    # What it prints is its log; what it returns is the answer.
    print("called with", event)
    return {"message": "Hello!"}
"""
NODE = """\
exports.handler = async (event, context) => {
  // What it prints is its log; what it returns is the answer.
  console.log("called with", event);
  return { message: "Hello!" };
};
"""
SHELL = """\
# The payload is its input, and what it prints is the answer.
echo "Hello! You sent: $(cat)"
"""
FILE = """\
# `quiltfn deploy` makes the server have what stands here.
project = "{name}"

[functions.{name}]
{fields}

[functions.{name}.url]
auth = "key"
"""
OWN_FILES = 'code = "."\nhandler = "{handler}"'
IMAGE = "docker.io/library/alpine:3.22"


@dataclass(frozen=True, kw_only=True)
class KindOptions:
    """What the function is written in; Python where nothing is said."""

    python: Annotated[bool, Option(help="A handler in Python.")] = False
    node: Annotated[bool, Option(help="A handler in JavaScript.")] = False
    shell: Annotated[bool, Option(help="A shell script.")] = False
    image: Annotated[bool, Option(help=f"A script in a root file system: {IMAGE}.")] = False

    def files(self) -> tuple[str, str, str]:
        """The fields of the function, the handler's file and what is in it. Raises
        `BadParameter`.
        """
        if sum((self.python, self.node, self.shell, self.image)) > 1:
            raise BadParameter("give one of --python, --node, --shell and --image")
        if self.node:
            return _fields("node", "main:handler"), "main.js", NODE
        if self.shell or self.image:
            fields = _fields("shell", "sh /app/hello.sh")
            return f'image = "{IMAGE}"\n' * self.image + fields, "hello.sh", SHELL
        return _fields("python", "main:handler"), "main.py", PYTHON


def init(
    directory: Annotated[
        Path, Argument(metavar="DIR", help="Where it is made; else here.")
    ] = Path(),
    *,
    kind: KindOptions,
) -> None:
    """Write a small project: quiltfn.toml and one handler. No file is ever overwritten."""
    fields, handler, source = kind.files()
    name = project_name(directory)
    files = {
        directory / NAME: FILE.format(name=name, fields=fields),
        directory / handler: source,
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        verb = "is" if len(there) == 1 else "are"
        show.complain(f"{' and '.join(there)} {verb} there already", "nothing was written")
        raise Exit(1)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x") as file:
                file.write(text)
            show.say(f"wrote {path}")
    except OSError as error:
        show.complain(f"{error.filename} cannot be written: {error.strerror}")
        raise Exit(1) from None
    where = "" if directory == Path() else f" {shlex.quote(str(directory))}"
    show.note(f"put it on a server with: quiltfn deploy{where}")


def project_name(directory: Path) -> str:
    """A name of a project, and of a function, after a directory."""
    word = re.sub("[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")
    word = word[:32].strip("-")
    return FALLBACK if not word or word in RESERVED_FUNCTION_NAMES else word


def _fields(kind: str, handler: str) -> str:
    return f'kind = "{kind}"\n{OWN_FILES.format(handler=handler)}'
