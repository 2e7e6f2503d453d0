// SPDX-License-Identifier: Apache-2.0
//
// The guest's children and their descendants.

#include "processes.h"
#include "clock.h"
#include "survivors.h"
#include "zygote.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

bool childless;
bool met_others;
int child_signal;

void forget_child_signal(void)
{
    struct signalfd_siginfo ignored;
    if (read(child_signal, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        _exit(BROKEN);
}

// Reaps children that have ended, including orphans. Returns whether `handler` was among them.
// Reaps at most 256 at a time, so that a handler that forks endlessly cannot delay the deadline;
// `more` is set if there may be more children to reap.
bool reap(pid_t handler, int *status, bool *more)
{
    bool ended = false;
    for (int i = 0; i < 256; i++) {
        int one;
        pid_t pid = waitpid(-1, &one, WNOHANG | __WALL); // __WALL: children by any kind of clone.
        childless = pid < 0 && errno == ECHILD;
        if (pid <= 0) {
            *more = false;
            return ended;
        }
        if (pid == handler) {
            *status = one;
            ended = true;
        } else if (pid == zygote_process()) {
            zygote_gone();
        } else {
            met_others = true;
        }
    }
    *more = true;
    return ended;
}

struct end end_of(int status)
{
    if (WIFEXITED(status))
        return (struct end){EXITED, (uint32_t)WEXITSTATUS(status)};
    return (struct end){KILLED, (uint32_t)WTERMSIG(status)};
}

// Kills every process of the sandbox except the guest, and returns when none is left. If the guest
// has no child except the zygote, no process of an invocation is left, and this does nothing, since
// kill(-1) makes the kernel examine every process of the host. Otherwise the zygote is killed, too,
// and another one is started later.
//
// Outside a PID namespace, kill(-1) would kill all processes of the machine, hence the check right
// before it. ESRCH proves that no process is left. Forks cannot escape, since the kernel refuses to
// fork while a signal is pending. If processes are still alive after a second, the guest exits.
void kill_everyone(void)
{
    if (childless || (zygote_process() > 0 && kill_children_but(zygote_process()) == 0))
        return;
    if (getpid() != 1)
        _exit(BAD_START);
    for (int turn = 0; kill(-1, SIGKILL) == 0; turn++) {
        if (turn == 1000)
            _exit(NOT_CLEAN);
        while (waitpid(-1, NULL, __WALL) > 0 || errno == EINTR) {
        }
        if (turn > 0)
            nanosleep(&(struct timespec){0, (long)MS_NS}, NULL);
    }
    if (errno != ESRCH)
        _exit(NOT_CLEAN);
    zygote_gone();
}
