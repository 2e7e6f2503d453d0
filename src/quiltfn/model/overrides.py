"""Decides which variables an invocation may set if its key has no write scope.

A key with write scope can run any code as the function anyway. A key that may only invoke must not
run code of its own. But variables that a shell, a loader or an interpreter reads can contain code,
and an address in one of the function's variables decides where its secrets are sent. So such an
invocation may set only variables that the function leaves open, except those that make programs run
code.
"""

from collections.abc import Mapping

from quiltfn.model.errors import Forbidden

# Variables of programs that a handler is likely to start. They make a program run code, load or
# write other files, or send its output elsewhere. No such list can be complete. It is a second line
# of defence, for names that a function declares empty only to clear them.
PREFIXES = (
    *("BASH", "LD_", "DYLD_", "GLIBC_", "GCONV_", "MALLOC_", "LIBC_", "NSS_", "DBUS_", "XDG_"),
    *("PYTHON", "PIP_", "UV_", "VIRTUAL_ENV", "CONDA_", "NODE_", "NPM_", "YARN_", "COREPACK_"),
    *("PERL", "RUBY", "GEM_", "BUNDLE_", "PHP", "LUA_", "JAVA_", "JDK_", "_JAVA_", "DOTNET_"),
    *("CORECLR_", "RUSTC", "CARGO_", "GUILE_", "ERL_", "ELIXIR_", "GIT_", "SSH_", "RSYNC_", "SVN_"),
    *("CVS_", "GPG_", "GNUPG", "SUDO_", "DEBUGINFOD_", "SSL_", "OPENSSL_", "CURL_", "REQUESTS_"),
    *("AWS_", "KUBE", "DOCKER_", "SQLITE_", "MYSQL_", "PGSSL", "GTK_", "QT_", "FONTCONFIG_"),
    *("MAGICK_", "TEXMF", "TERMINFO"),
)
NAMES = frozenset(
    (
        *("ENV", "PATH", "IFS", "HOME", "SHELL", "SHELLOPTS", "PWD", "OLDPWD", "PS1", "PS2", "PS4"),
        *("CDPATH", "ZDOTDIR", "PROMPT_COMMAND", "POSIXLY_CORRECT", "INPUTRC", "TMPDIR", "TMP"),
        *("TEMP", "TZDIR", "LOCPATH", "NLSPATH", "CLASSPATH", "HOSTALIASES", "RESOLV_HOST_CONF"),
        *("RES_OPTIONS", "LOCALDOMAIN", "EDITOR", "VISUAL", "PAGER", "MANPAGER", "LESS"),
        *("LESSOPEN", "LESSCLOSE", "LESSKEY", "LESSKEYIN", "LESSKEY_SYSTEM", "BROWSER"),
        *("MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "CC", "CXX", "CPP", "AR", "AS", "LD", "RANLIB"),
        *("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "PKG_CONFIG", "TAR_OPTIONS", "GREP_OPTIONS"),
        *("GZIP", "XZ_OPT", "XZ_DEFAULTS", "RSH", "WGETRC", "NETRC", "EXINIT", "VIMINIT"),
        *("MYVIMRC", "SCREENRC", "DISPLAY", "TERM", "TERMCAP", "AWKPATH", "AWKLIBPATH"),
        *("JQ_LIBRARY_PATH", "TCLLIBPATH", "TEXINPUTS", "HGRCPATH", "HGEDITOR", "GOFLAGS"),
        *("GOPATH", "GOROOT", "GOPROXY", "GOENV", "GOTOOLCHAIN", "R_PROFILE", "R_PROFILE_USER"),
        *("R_ENVIRON", "R_ENVIRON_USER", "R_LIBS", "PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE"),
        *("PGSERVICEFILE", "PGPASSFILE", "PGSYSCONFDIR", "PGOPTIONS", "PSQLRC"),
    )
)
SUFFIXES = ("_PROXY", "_PRELOAD", "_STARTUP")


def check_overrides(declared: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Refuses variables that the function does not leave open with an empty value in `declared`.

    For callers whose scope is below `write`. Raises `Forbidden`, which names the variable.
    """
    for name in given:
        where = f"environment.{name[:80]}"
        if makes_programs_run_code(name):
            raise Forbidden(
                f"{where} cannot be set by a key below scope write: programs read it to decide "
                "what they run",
                details={"field": where},
                hint="leave it out, or use a key with scope write",
            )
        if declared.get(name) != "":
            raise Forbidden(
                f"{where} cannot be set by a key below scope write: the function does not declare "
                "it with an empty value",
                details={"field": where},
                hint=f"have the function declare {name[:80]} with an empty value, or call with a "
                "key with scope write",
            )


def makes_programs_run_code(name: str) -> bool:
    """Whether the variable is known to make a shell, loader, interpreter or other program run code,
    load or write other files, or send its output elsewhere.
    """
    upper = name.upper()  # lowercase names such as http_proxy and npm_config_… have the same effect
    return name in NAMES or upper.startswith(PREFIXES) or upper.endswith(SUFFIXES)
