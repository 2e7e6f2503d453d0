"""The static copy of this machine's /bin/sh does the same as /bin/sh itself (shell_build.py)."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from promises import promise
from quiltfn.launcher import host_image
from timeouts import full_wait

GUEST = Path(__file__).parents[2] / "src/quiltfn/guest/bin/guest"
STATIC = host_image.static_shell(GUEST)

pytestmark = pytest.mark.skipif(
    not STATIC.exists(), reason="no static copy of this machine's shell was built"
)

# Each runs in an empty directory with the files old, new (a second younger) and program, a script
# without an interpreter line.
SCRIPTS = [
    # The shell itself.
    "echo $0 $# $- $PPID; echo ${LINENO-none}; set -- a b; echo $0 $*",
    "set -o; set +o",
    "set -o vi; set -o; set -o emacs; set +o vi; echo $-",
    "set -o pipefail; false | true; echo $?",
    "set -o nosuch; echo on",
    "set -eu; echo ${X-unset}; false; echo no",
    "set -x; a=1; b=`echo 2`; [ $a = $b ] || echo no; set +x",
    "set -v\necho seen\nset +v",
    "set -n; echo never",
    "set -C; echo a >new; echo $?; echo b >|new; cat new",
    "set -f; echo *; set +f; echo *",
    "readonly A=1; A=2; echo on",
    "A=1; readonly A; unset A; echo on",
    "set; export; readonly",
    "env | sort",
    "alias l='echo l'; alias; unalias l; alias l",
    "type cd echo ls if nosuch; command -v cd ls if; command -V printf",
    "hash; hash ls; hash -r; hash",
    "umask; umask 027; umask; umask -S; umask u=rwx,g=,o=; umask; umask 8",
    "times | wc -l",
    "getopts ab: o -a -b x; echo $o $OPTARG $OPTIND; getopts a o -q; echo $o; getopts b: o -b",
    "read a b <<E\none two three\nE\necho $a-$b; printf 'a\\\\b\\n' | { read -r c; echo $c; }",
    "IFS=: read a b <<E\nx:y:z\nE\necho $a $b; IFS=,; set -- $(echo a,b); echo $#",
    # Names of users, which libc looks up.
    "echo ~ ~root ~nobody ~nosuchuser ~root/x ~daemon:~root; HOME=/x; echo ~ ~/y",
    "a=~root:~nobody; echo $a",
    # Signals, traps and limits.
    "kill -l",
    "for n in 0 1 2 9 15 31 32 33 34 50 64 65 129 143 x; do kill -l $n; done",
    "trap 'echo got' TERM HUP; trap; kill -TERM $$; kill -s HUP $$; kill -1 $$; echo on",
    "trap 'echo bye $?' EXIT; (exit 3); exit 4",
    "trap '' INT; kill -INT $$; echo still; trap - INT; trap; kill -INT $$; echo no",
    "trap 'echo x' NOSUCH; echo $?; trap 'echo x' KILL; echo $?",
    "kill -9 $$",
    "kill -SEGV $$",
    "sh -c 'kill -ABRT $$'; echo $?",
    "ulimit -a",
    "ulimit -n 40; ulimit -n; ulimit -Hn; ulimit -Sc; ulimit -c 0; ulimit -n 50; echo on",
    "ulimit -r; echo $?",
    "ulimit -q; echo on",
    "ulimit -f 0; echo x >new; echo $?",
    # Jobs.
    "sleep 0.01 & wait $!; echo $?; jobs; wait 999999; echo $?",
    "(exit 7) & wait $!; echo $?; false & true; wait; echo $?",
    "sleep 9 & kill $!; wait $!; echo $?; kill %1; echo $?",
    "set -m; sleep 0.01 & fg; echo $?; bg; echo $?",
    "sleep 0.1 | sleep 0.2 & jobs; kill $!; jobs -l | wc -l",
    "exec 3>new; echo x >&3; exec 3>&-; cat new; echo y >&3; echo on",
    "exec nosuch; echo no",
    "exec </dev/null; cat; exec 2>&1; nosuch; exec >&-; echo closed",
    "exec -a x echo y",
    # Commands, and what is found when.
    "nosuch; echo $?; ./old; echo $?; ./; echo $?; ./program x; echo $?; command nosuch; echo $?",
    "PATH=.; program y; echo $?; PATH=; nosuch; echo $?",
    "printf '\\177ELF\\1\\2' >new; chmod +x new; ./new; echo $?",
    "f() { local a=1; echo $a $1; return 3; }; f x; echo $? ${a-none}; unset -f f; f",
    "f() { f; }; f",
    "eval 'echo a; eval \"echo b\"'; . ./program; . ./nosuch; echo no",
    "if then fi",
    "echo 'open",
    "case ab in a*) echo 1;; esac; case [ in [[]) echo 2;; esac",
    "case é in ?) echo 3;; ??) echo 4;; esac",
    "for i in 1 2 3; do [ $i = 2 ] && continue; echo $i; break 5; done; while :; do break; done",
    "echo a | cat | tr a b; ! true; echo $?; { echo c; } 2>&1; (cd /; pwd); pwd -P | wc -l",
    "cat <<-E\n\tin $0\n\tE\ncat <<'E'\n$0 é\nE\ncat <<\"é\"\nx\né",
    "cat <<E\n$(cat <<F\ninner\nF\n)\nE",
    # Expansions and patterns.
    "a=abcabc; echo ${#a} ${a#*b} ${a##*b} ${a%b*} ${a%%b*} ${a:-x} ${n:=y} ${n:+z} ${#}",
    "a=é; echo ${#a}; echo ${a%?} | od -c",
    "echo ${A?message}; echo no",
    "echo $((1+2*3)) $((0x1f)) $((010)) $((7/2)) $((-7%3)) $((1<<40)) $((a=5, a*2))",
    "echo $((9223372036854775807+1)) $((99999999999999999999)); echo $((1/0)); echo no",
    "echo $((08)); echo no",
    "echo * .* n[de]w [[:alpha:]]* [!o]* ./o?d '*' \"*\" nosuch*",
    "case A in [[:upper:]]) echo up;; esac; case a in [[:upper:]]) echo up;; *) echo low;; esac",
    "echo $(echo a; echo b) `echo \\`echo c\\`` \"$(printf 'x\\n\\n')\"",
    "LC_ALL=de_DE.UTF-8; export LC_ALL; printf '%.2f\\n' 1.5; nosuch; cd /nosuch; kill -l 2",
    "echo é | tr a b; printf '%s %c\\n' é é; echo 'ÄÖ' | { read a; echo ${#a}; }",
    # Built-in commands.
    "echo -n a; echo 'b\\tc\\e[0m\\c never'; echo; echo -e x; echo '\\0101 \\x41 \\u00e9'",
    "printf '%d %i %o %x %X %u %c %s %b%%\\n' 1 -2 8 255 255 3 abc s 'a\\tb'; printf '%q' a",
    "printf '%d\\n' abc 0x1f 010 \"'a\" 99999999999999999999 1.5; echo $?",
    "printf '%s-%s\\n' a b c; printf '%*d|%-*d|\\n' 5 1 5 2; printf '\\101\\x41\\e[m\\n'; printf",
    "printf '%f %.3s %10s|%-10s|%05d %+d % d %#x\\n' 1e3 abcdef r l 42 1 1 255; printf '%z'",
    "printf '%5.2f %e %g %a\\n' 3.14159 1 2 3; printf '%f\\n' x 1,5 inf nan; echo $?",
    "[ new -nt old ]; echo $?; [ old -nt new ]; echo $?; [ new -ot old ]; echo $?",
    "[ old -ef old ]; echo $?; [ old -ef new ]; echo $?",
    "[ new -nt nosuch ]; echo $?; [ nosuch -nt new ]; echo $?; [ nosuch -ot new ]; echo $?",
    "for t in b c d e f g h k p r s t u w x L O G S; do [ -$t new ]; printf '%s ' $t$?; done",
    "[ 1 -eq x ]; echo $?; [ a = a -a b != b -o c ]; echo $?; [ '(' a ')' ]; echo $?; [ ]",
    "[ x y z w v ]; echo $?; [ a; echo $?",
    "[ a \\< b ]; echo $?; [ b \\> a ]; echo $?; [ ! a ]; echo $?; [ 5 -gt 4 -a 3 -le 3 ]; echo $?",
    "cd nosuch; echo $?; cd /usr/../etc; pwd; cd -; cd -P /bin; pwd; CDPATH=/usr; cd bin; cd; pwd",
    "shift; echo on; shift 2; echo no",
    "break; continue; echo on; return 3; echo no",
    "local a; echo on",
    "wait; wait x; echo $?; true; echo ${_-none}; false; : ; echo $?",
    "fc; history; echo on",
    "unset -v A; unset -f f; unset A-B; echo on",
    "command -p ls -d /; command; echo $?; builtin echo; echo $?",
    # Variables for the loader reach programs.
    "LD_PRELOAD=/nosuch.so cat </dev/null; LD_DEBUG=help true | head -1; unset LD_DEBUG; true",
    "export LD_LIBRARY_PATH=/x; env | grep ^LD_; sh -c 'echo $LD_LIBRARY_PATH'",
    "LD_TRACE_LOADED_OBJECTS=1 sh | grep -c libc.so; LD_SHOW_AUXV=1 true | grep -c AT_UID",
    # /proc.
    "tr '\\0' ' ' </proc/$$/cmdline; cat /proc/$$/comm; tr '\\0' '\\n' </proc/$$/environ | sort",
    # SigBlk differs by moments, and SigQ is the user's.
    "ls /proc/$$/fd; grep -E '^(Sig[PIC]|Shd|Cap|Groups|Umask|Threads|NoNew)' /proc/$$/status",
]


def seen(program: Path, script: str, directory: Path) -> tuple[int, bytes, bytes]:
    """What a script does, run as `sh -c`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for time, name in enumerate(("old", "new")):
        (directory / name).write_text("content\n")
        os.utime(directory / name, (10**9 + time,) * 2)
    (directory / "program").write_text("echo ran $# $1\n")
    (directory / "program").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script],
        executable=program,
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "HOME": "/root", "V": "1", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=full_wait(30),
    )
    return done.returncode, done.stdout, done.stderr


@promise("R13")
@pytest.mark.parametrize("script", SCRIPTS)
def test_it_does_the_same(script: str, tmp_path: Path) -> None:
    directory = tmp_path / "work"
    assert seen(STATIC, script, directory) == seen(Path("/bin/sh"), script, directory)


def test_negative_control_another_shell_differs(tmp_path: Path) -> None:
    directory, some = tmp_path / "work", SCRIPTS[:30]
    shells = [Path("/bin/bash"), Path("/bin/sh")]
    differ = [seen(shells[0], one, directory) != seen(shells[1], one, directory) for one in some]
    assert sum(differ) > len(some) / 2
