"""The variables that a key below scope `write` may set: those that the function declares as empty,
except those that make programs run code.
"""

import pytest

from promises import promise
from quiltfn.model.errors import Forbidden
from quiltfn.model.overrides import check_overrides

pytestmark = promise("A28")

DECLARED = {"MODE": "", "LIMIT": "10", "API_URL": "https://api.example", "TOKEN": "secret"}
RUN_CODE = [
    *("BASH_ENV", "BASH_FUNC_ls", "ENV", "NODE_OPTIONS", "NODE_PATH", "LD_PRELOAD"),
    *("LD_LIBRARY_PATH", "LD_AUDIT", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONWARNINGS"),
    *("PYTHONINSPECT", "PERL5OPT", "PERL5LIB", "RUBYOPT", "RUBYLIB", "GIT_SSH_COMMAND"),
    *("GIT_CONFIG_COUNT", "PATH", "IFS", "PS4", "SHELLOPTS", "HOME", "TMPDIR", "BROWSER"),
    *("EDITOR", "PAGER", "LESSOPEN", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "PHP_INI_SCAN_DIR"),
    *("LUA_INIT", "GCONV_PATH", "LOCPATH", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"),
    *("npm_config_script_shell", "OPENSSL_CONF", "SSL_CERT_FILE", "CURL_HOME", "HOSTALIASES"),
    *("MAKEFLAGS", "TAR_OPTIONS"),
]


def test_what_the_function_left_open_is_set() -> None:
    check_overrides(DECLARED, {"MODE": "fast"})
    check_overrides(DECLARED, {})
    for name in ("TEXT", "LESSON", "GOAL", "PAGE", "USERNAME", "REGION", "path", "TERMS"):
        check_overrides({name: ""}, {name: "x"})  # none of them makes a program run code


@pytest.mark.parametrize("name", ["EXTRA_VAR", "LIMIT", "API_URL", "TOKEN", "mode"])
def test_what_is_not_open_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(Forbidden, match=f"^environment.{name} cannot be set") as error:
        check_overrides(DECLARED, {"MODE": "fast", name: "x"})
    assert "secret" not in str(error.value)
    assert "api.example" not in str(error.value)


@pytest.mark.parametrize("name", RUN_CODE)
def test_what_programs_run_code_by_is_refused_even_where_it_was_emptied(name: str) -> None:
    with pytest.raises(Forbidden, match=f"^environment.{name} .*decide what they run"):
        check_overrides({name: ""}, {name: "x"})
