"""Projects: the functions of one directory, as its `quiltfn.toml` describes them, and their
deployment to a server.

`file` reads the file, `state` reads the server's state, `plan` compares both without any I/O,
`steps` carries out a plan, and `commands` has the commands.
"""

PROJECT_FILE = "quiltfn.toml"
