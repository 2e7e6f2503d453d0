"""A project: the functions of one directory, as its `quiltfn.toml` describes them, and how a server
is made to have just these.

`file` reads the file, `state` what the server has, `plan` compares the two without asking anybody,
`steps` carries a plan out, and `commands` is what a person types.
"""

PROJECT_FILE = "quiltfn.toml"
