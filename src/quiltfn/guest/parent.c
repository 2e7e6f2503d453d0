// SPDX-License-Identifier: Apache-2.0
//
// Compares a runner's state before and after an invocation, as reported by the kernel.
//
// An invocation runs as the runner's user. It can send signals to the runner, and change the
// properties that the kernel lets processes of one user change for each other. Later invocations
// are forked from the runner and inherit these.

#include "parent.h"
#include "clock.h"
#include "descriptors.h"
#include "privileges.h"
#include "processes.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct {
    int status;   // For every runner that stays.
    bool heeds;   // No signal can be pending for it; see parent_heeds.
    int children; // This and the following fields: for a runner that forks.
    int limits;
    struct as_it_was {
        unsigned char scheduling[128], processors[1024];
        char limits[4096];
        long answers[4];
    } was;
} parent = {.status = -1, .children = -1, .limits = -1};

int parent_children(void)
{
    return parent.children;
}

void parent_forget(void)
{
    close_if_open(&parent.status);
    close_if_open(&parent.children);
    close_if_open(&parent.limits);
}

static uint64_t signals_in(const char *status, const char *name)
{
    const char *at = strstr(status, name); // NULL in gVisor.
    return at != NULL ? strtoull(at + strlen(name), NULL, 16) : 0;
}

// Signals that the kernel sends by itself. They are harmless: no runner ends or stops because of
// them.
static const uint64_t usual = 1U << (SIGCHLD - 1) | 1U << (SIGCONT - 1);

// Whether the runner has neither ended nor been stopped. Much cheaper than reading its status.
static bool parent_lives(pid_t pid)
{
    siginfo_t info = {.si_pid = 0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0;
}

// Whether the runner waits for the next invocation: it has not ended or been stopped, and no
// pending signal would end or stop it. Used when no process is alive that could send a signal. A
// signal sent earlier is pending, or has woken the runner, which then ends or sleeps again. A
// runner that keeps state may be busy and may have blocked signals. A runner that forks has a
// second to become idle.
//
// If the invocation had no process besides its handler, the runner handled every signal before it
// reported the end. Then it only has to be alive, unless it forks and a signal can be pending for
// it. gVisor wakes a process some time after a signal was sent to it.
bool parent_waits(pid_t pid, bool by_forks)
{
    enum { TURNS = 10000, NAP_NS = 50000 };
    static char text[4096];
    if (!in_gvisor && !met_others && (!by_forks || parent.heeds))
        return parent_lives(pid);
    if (in_gvisor && met_others)
        nanosleep(&(struct timespec){0, 2 * (long)MS_NS}, NULL);
    for (int turn = 0; turn < TURNS; turn++) {
        ssize_t n = pread(parent.status, text, sizeof text - 1, 0);
        if (n <= 0)
            return false;
        text[n] = '\0';
        const char *state = strstr(text, "\nState:\t");
        // 't': stopped by a tracer on the host, as no handler can trace it. It will continue.
        if (state == NULL || strchr("SRDt", state[8]) == NULL)
            return false;
        uint64_t pending = signals_in(text, "\nSigPnd:\t") | signals_in(text, "\nShdPnd:\t");
        uint64_t blocked = signals_in(text, "\nSigBlk:\t");
        if ((state[8] == 'S' || !met_others) && (pending & ~blocked) == 0)
            return !by_forks || (pending & ~usual) == 0;
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
    return !by_forks;
}

// Whether no signal can be pending for the runner or arrive late: it blocks no relevant signal, and
// it ignores SIGIO. An invocation can make the kernel send SIGIO after its end, when the guest
// reads from its pipes.
static bool parent_heeds(void)
{
    static char text[4096];
    ssize_t n = pread(parent.status, text, sizeof text - 1, 0);
    if (n <= 0)
        return false;
    text[n] = '\0';
    return (signals_in(text, "\nSigBlk:\t") & ~usual) == 0 &&
           (signals_in(text, "\nSigIgn:\t") & 1U << (SIGIO - 1)) != 0;
}

// Reads all properties of the runner that another process of its user can change without tracing
// it, and that the runner's forks inherit: scheduling (policy, priority, flags), CPUs, I/O
// priority, limits. Such a process cannot change memory, descriptors and files in /proc.
static void parent_look(pid_t pid, struct as_it_was *to)
{
    memset(to, 0, sizeof *to);
    to->answers[0] = syscall(SYS_sched_getattr, pid, to->scheduling, sizeof to->scheduling, 0);
    to->answers[1] = syscall(SYS_sched_getaffinity, pid, sizeof to->processors, to->processors);
    to->answers[2] = syscall(SYS_ioprio_get, 1 /* IOPRIO_WHO_PROCESS */, pid);
    if (to->answers[0] < 0) // gVisor supports only getpriority.
        to->answers[0] = syscall(SYS_getpriority, PRIO_PROCESS, pid);
    to->answers[3] = pread(parent.limits, to->limits, sizeof to->limits, 0);
}

// Call this when the runner is ready, before its first invocation.
void parent_remember(pid_t pid, bool by_forks)
{
    char children[32];
    parent_forget();
    parent.status = open_of(pid, "status");
    if (parent.status < 0)
        _exit(BROKEN);
    if (!by_forks)
        return;
    parent.heeds = parent_heeds();
    snprintf(children, sizeof children, "task/%d/children", (int)pid);
    parent.children = open_of(pid, children);
    parent.limits = open_of(pid, "limits");
    if (parent.children < 0)
        _exit(BROKEN);
    parent_look(pid, &parent.was);
}

bool parent_is_as_it_was(pid_t pid)
{
    static struct as_it_was now;
    parent_look(pid, &now);
    return memcmp(&now, &parent.was, sizeof now) == 0;
}
