// SPDX-License-Identifier: Apache-2.0
//
// Starts processes: vfork, the ids and streams of the new process, execve.

#include "start.h"
#include "frames.h"
#include "privileges.h"
#include "processes.h"
#include "protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

struct failure volatile failure;

void could_not(const char *step, const char *name, int error)
{
    failure.step = step;
    failure.name = name;
    failure.error = error;
}

// When memory runs out, the kernel must kill handlers, not pid 1. A process inherits its parent's
// score, so pid 1 takes the handlers' score while it starts one. Writing to the child's own file
// would make the kernel create and free four objects under /proc for every invocation. The higher
// score of pid 1 does no harm meanwhile: until the child's execve, the kernel could only kill pid 1
// anyway, since it skips the child of a vfork.
static const char *oom_score_adj;
static char own_oom_score[16];
static int oom_score_fd = -1;

static bool set_oom_score(const char *score)
{
    size_t length = strlen(score);
    return pwrite(oom_score_fd, score, length, 0) == (ssize_t)length;
}

// A process may lower its score to the initial score of its sandbox, which is the guest's. So /proc
// is read-only for handlers, and the guest opens its own file through a temporary second mount of
// /proc. gVisor does not need this, since scores inside it do not affect the host.
bool prepare_oom_score(const char *of_handlers)
{
    oom_score_adj = of_handlers;
    const unsigned long as_it_is = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC;
    const char *own = in_gvisor ? "/proc/self/oom_score_adj" : "/tmp/self/oom_score_adj";
    if (!in_gvisor && mount("/proc", "/tmp", NULL, MS_BIND, NULL) != 0)
        return false;
    oom_score_fd = open(own, O_RDWR | O_CLOEXEC);
    if (!in_gvisor && (umount2("/tmp", MNT_DETACH | UMOUNT_NOFOLLOW) != 0 ||
                       mount(NULL, "/proc", NULL, as_it_is | MS_RDONLY, NULL) != 0))
        return false;
    return oom_score_fd >= 0 &&
           pread(oom_score_fd, own_oom_score, sizeof own_oom_score - 1, 0) > 0 &&
           set_oom_score(oom_score_adj) && set_oom_score(own_oom_score);
}

// Runs in the child of vfork, which shares the guest's memory until execve, so it only makes system
// calls. No handler can reach that memory: no other process of the handler's uid is alive, and the
// child is not dumpable. Umask, signal actions and groups already have the handler's values. The
// process also gets the descriptor `more` as number `as`, which is 3 or above. As GUEST it keeps
// the guest's ids and inheritable capabilities, and its own argv follows the name of its file; only
// the zygote is started like this.
__attribute__((noinline, noreturn)) static void become(enum as who, const int fds[3], int more,
                                                       int as, char **argv, char **env)
{
    static const struct __user_cap_data_struct no_capabilities[_LINUX_CAPABILITY_U32S_3];
    struct __user_cap_header_struct version = {_LINUX_CAPABILITY_VERSION_3, 0};
    sigset_t none;
    const char *step = NULL, *name = "";
    sigemptyset(&none);
    if (setsid() < 0 || sigprocmask(SIG_SETMASK, &none, NULL) != 0)
        step = "start a session";
    // Raw system calls: libc's functions act on all threads, which is unsafe in shared memory.
    else if (who == HANDLER &&
             (syscall(SYS_setresgid, HANDLER_ID, HANDLER_ID, HANDLER_ID) != 0 ||
              syscall(SYS_setresuid, HANDLER_ID, HANDLER_ID, HANDLER_ID) != 0 ||
              syscall(SYS_capset, &version, no_capabilities) != 0))
        step = "switch to the handler's user";
    // All three are above 3, since the guest always has 0 to 3 open, so none overwrites another.
    else if (dup2(fds[0], 0) < 0 || dup2(fds[1], 1) < 0 || dup2(fds[2], 2) < 0)
        step = "connect the standard streams";
    else if (more >= 0 && (more == as ? fcntl(as, F_SETFD, 0) : dup2(more, as)) < 0)
        step = "connect the control descriptor";
    // A safeguard: all descriptors of the guest are close-on-exec already. INT_MAX is the maximum
    // that gVisor accepts.
    else if ((more < 0 || as > 3) &&
             syscall(SYS_close_range, 3, more < 0 ? INT_MAX : as - 1, 0) != 0)
        step = "close the guest's descriptors";
    else if (more >= 0 && syscall(SYS_close_range, as + 1, INT_MAX, 0) != 0)
        step = "close the guest's descriptors";
    else if (who == HANDLER && chdir(special.cwd) != 0)
        step = "enter ", name = special.cwd;
    else if (execve(argv[0], argv + (who == GUEST), env) != 0)
        step = "execute ", name = argv[0];
    could_not(step, name, errno);
    _exit(127);
}

__attribute__((noinline)) pid_t start(enum as who, const int fds[3], int more, int as,
                                             char **argv, char **env)
{
    if (!set_oom_score(oom_score_adj))
        _exit(BROKEN);
    childless = false;
    pid_t pid = vfork();
    if (pid == 0)
        become(who, fds, more, as, argv, env);
    if (!set_oom_score(own_oom_score))
        _exit(BROKEN);
    return pid;
}
