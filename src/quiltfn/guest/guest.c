// SPDX-License-Identifier: Apache-2.0
//
// The guest: process 1 of every sandbox.
//
// It reads frames from the host on descriptor 3, runs one handler at a time as another user,
// streams its output, kills all processes that are left, reports its end, cleans up, and reports
// that. docs/reference/guest-protocol.md describes the frames.
//
// Rule 1: it never waits for a handler without a deadline, and no handler decides what it does.
// Rule 2: it continues only from a state that it has checked. After an invalid frame or an
//         incomplete cleanup it exits; the kernel then kills the whole PID namespace, and the host
//         creates a new sandbox.
// Rule 3: nothing grows from one invocation to the next. Every buffer is static and has a limit;
//         there is no heap, so that the guest has its memory even if a handler has used up all
//         other memory.
// Rule 4: its own umask, directory, signal mask and ids are the same before and after every
//         invocation.
//
// Start reading at `main` below, and continue with serve_call in call.c. Each other unit is a tool
// of these; its header describes it. All units together have at most 2,600 lines of code, so that
// they can be read in one sitting.

#include "call.h"
#include "clean.h"
#include "descriptors.h"
#include "directory.h"
#include "frames.h"
#include "host.h"
#include "prefork.h"
#include "privileges.h"
#include "processes.h"
#include "protocol.h"
#include "runner.h"
#include "server.h"
#include "start.h"
#include "zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PENDING_SIGNALS = 128 };

// Starts a runner, or the zygote of a shell, before the version is known. SPECIALISE reports a
// runner's failure.
static void prepare_process(size_t length)
{
    if (special.ready || runner.pid != 0 || zygote_process() != 0 || length > SPECIALISE_MAX)
        _exit(BAD_FRAME);
    if (length == 0) {
        zygote_prepare();
        return;
    }
    in_exactly(special_bytes, length);
    if (!parse_prepare(special_bytes, length))
        _exit(BAD_FRAME);
    special.cwd = "/";
    runner_spawn();
}

static void specialise(size_t length)
{
    if (special.ready || length > SPECIALISE_MAX)
        _exit(BAD_FRAME);
    in_exactly(special_bytes, length);
    if (!parse_specialise(special_bytes, length))
        _exit(BAD_FRAME);

    if (!special.shell)
        zygote_abandon();
    const char *why;
    char text[TEXT_MAX + 1 + LAST_WORDS];
    int error = prove_cwd(&why), text_length = 0, log = -1;
    if (error != 0)
        text_length = snprintf(text, sizeof text, "working_directory %.300s %s", special.cwd, why);
    if (error == 0 && special.resident) {
        bool prepared = runner.pid > 0;
        if (prepared && special.fresh)
            runner_drop();
        error = prepared && !special.fresh ? runner_load() : runner_start();
        text_length = snprintf(text, sizeof text, "%s", runner.told);
        if (error != 0) // The last output comes after the NUL.
            text_length += 1 + (int)runner_last_log((unsigned char *)text + text_length + 1);
    }
    if (error == 0 && special.server && !server_start(&log)) {
        error = failure.error;
        text_length = snprintf(text, sizeof text, "the sandbox could not %s%.300s: %s", failure.step,
                               failure.name, strerror(error));
    }
    unsigned char *at = out_frame('P', 4 + (size_t)text_length);
    put32(at, (uint32_t)error);
    memcpy(at + 4, text, (size_t)text_length);
    out_send_with(log);
    close_if_open(&log);
    if (error != 0)
        _exit(GONE);
    if (special.server)
        serve_server();

    // Allocates the pages that the end of an invocation needs, since a handler's files may have
    // used all memory by then. Done here, so that prewarmed sandboxes do not need this memory.
    for (size_t i = 0; i < sizeof out.bytes; i += 4096)
        ((volatile unsigned char *)out.bytes)[i] = 0;
    special.ready = true;
    runner_go_ahead();
    prefork_start();
}

// Mounts a read-only view of the sandbox's control group, the root of its namespace, at the path
// where programs look for their limits. `kinds`: "v2", or the controllers of v1, with commas
// between those of one hierarchy and colons between hierarchies. If the kernel forbids it, programs
// see the machine's limits.
static void show_limits(char *kinds)
{
    const unsigned long how = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    if (strcmp(kinds, "v2") == 0) {
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2", how, NULL);
        return;
    }
    char path[64];
    for (char *one = strtok(kinds, ":"); one != NULL; one = strtok(NULL, ":")) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%.*s", (int)strcspn(one, ","), one);
        mount("cgroup", path, "cgroup", how, one);
    }
}

static void prepare(const char *handlers_score)
{
    // Opens new standard streams, so that no descriptor of an invocation is ever 0, 1 or 2. Under
    // gVisor the inherited ones are files of the host, which a handler could open again by
    // /proc/1/fd.
    for (int fd = 0; fd < 3; fd++) {
        if (in_gvisor)
            close(fd);
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            _exit(BAD_START);
    }
    if (fcntl(CONTROL, F_SETFD, FD_CLOEXEC) != 0)
        _exit(BAD_START);

    // execve keeps ignored signals ignored, and the process that started the guest may have ignored
    // some. For pid 1, no signal has its default action anyway.
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    if (sigprocmask(SIG_SETMASK, &children, NULL) != 0)
        _exit(BAD_START);
    child_signal = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    if (child_signal < 0)
        _exit(BAD_START);

    // Not dumpable, so that no handler can examine the guest or the child of vfork through /proc.
    // The OCI runtime sets no_new_privs; this is a safeguard in case it does not.
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        _exit(BAD_START);
    // Groups are inherited, so they are dropped here for all handlers. The check of the working
    // directory then has exactly the handler's rights.
    if (setgroups(0, NULL) != 0 || chdir("/") != 0)
        _exit(BAD_START);
    if (!prepare_oom_score(handlers_score))
        _exit(BAD_START);
    // Set here instead of by the OCI runtime: the limit at the creation of a user namespace also
    // applies to all namespaces of its creator together, so the timers of one handler could use up
    // the limit of all sandboxes. gVisor counts pending signals itself, and does not allow changes
    // of this limit.
    struct rlimit pending = {PENDING_SIGNALS, PENDING_SIGNALS};
    if (!in_gvisor && setrlimit(RLIMIT_SIGPENDING, &pending) != 0)
        _exit(BAD_START);
    umask(022);
    if (zygote_file != NULL)
        let_zygote_inherit();
    drop_bounding_set();
}

int main(int argc, char **argv)
{
    if (getpid() != 1 || argc < 4)
        return BAD_START;
    tmp_options = argv[1];
    shm_options = argv[2];
    in_gvisor = argc > 4 && strcmp(argv[4], "gvisor") == 0;
    writable = argv + 4 + in_gvisor;
    if (*writable != NULL && strncmp(*writable, "shell=", 6) == 0)
        zygote_file = *writable++ + 6;
    if (*writable != NULL && strncmp(*writable, "limits=", 7) == 0)
        show_limits(*writable++ + 7);
    if (*writable != NULL && strncmp(*writable, "output=", 7) == 0 && !set_output_max(*writable++ + 7))
        return BAD_START;
    prepare(argv[3]);
    put32(out_frame('H', 4), PROTOCOL_VERSION);
    out_send();
    for (;;) {
        unsigned char header[HEADER];
        while (!in_comes())
            prefork_rest();
        in_exactly(header, sizeof header);
        // With the three zero bytes after it: other values match no kind.
        uint32_t kind = get32(header);
        size_t length = get32(header + 4);
        if (kind == 'R')
            prepare_process(length);
        else if (kind == 'S')
            specialise(length);
        else if (kind == 'C')
            serve_call(length);
        else
            return BAD_FRAME;
    }
}
