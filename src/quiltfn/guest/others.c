// SPDX-License-Identifier: Apache-2.0
//
// What a call leaves beside a runner that stays: processes, which are ended, and what it did to a
// runner that later calls are forked from.
//
// Rule 1: no runner is asked to help, or believed. It may be an interpreter that has run the handler.
// Rule 2: everybody descends from us. So where our only child is the runner, and that has none, nobody
//         of a call is alive. The runner's children are looked at first: a process whose parent ends
//         comes to us, or to a parent above it that asked for that, and never the other way.
// Rule 3: of a runner with threads, whose children stand in as many lists, and of one that keeps state,
//         whose handler is in the runner itself, /proc shows the rest.

#include "others.h"
#include "clock.h"
#include "privileges.h"
#include "processes.h"
#include "streams.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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

enum { LIST_MAX = 8 * 1024, PATH_OF_PROC_MAX = 64 };

// The place in /proc where Linux begins to list processes, since what comes before need not be made,
// and where it stands behind the last of them: behind /proc/self, /proc/thread-self and as many as the
// kernel of 64 bits has numbers for.
enum { PROC_PROCESSES = 256, PROC_END = PROC_PROCESSES + 2 + 4 * 1024 * 1024 };

static struct {
    int status;   // Of a runner that stays.
    bool heeds;   // It acts on every signal as soon as it runs: see parent_heeds.
    int children; // Of one that forks, as is what follows.
    int limits;
    struct as_it_was {
        unsigned char scheduling[128], processors[1024];
        char limits[4096];
        long answers[4];
    } was;
} parent = {.status = -1, .children = -1, .limits = -1};

static int open_of(pid_t pid, const char *what)
{
    char path[PATH_OF_PROC_MAX];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
    return open(path, O_RDONLY | O_CLOEXEC);
}

// The file's text, or -1 and why not.
static ssize_t read_of(pid_t pid, const char *what, char *text, size_t room)
{
    int fd = open_of(pid, what);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, room - 1);
    int error = errno;
    close(fd);
    errno = error;
    if (n >= 0)
        text[n] = '\0';
    return n;
}

// A process that has ended and waits for its parent to ask how. One whose first thread has ended looks
// the same, while others of its threads run.
static bool is_dead(pid_t pid)
{
    char text[1024];
    ssize_t n = read_of(pid, "stat", text, sizeof text);
    if (n <= 0)
        return n < 0 && (errno == ENOENT || errno == ESRCH);
    char *state = strrchr(text, ')'); // Behind its name, which may hold anything.
    int threads;
    return state != NULL && (state[2] == 'Z' || state[2] == 'X') &&
           sscanf(state + 3, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d",
                  &threads) == 1 &&
           threads <= 1;
}

// Kills all in a list of children but `kept`; how many, or -1 if `kept` was not among them. Those
// that are dead already count where they are ours to reap.
static int kill_listed(int fd, pid_t kept, bool are_ours)
{
    static char list[LIST_MAX];
    ssize_t n = pread(fd, list, sizeof list - 1, 0);
    if (n < 0)
        return -1;
    list[n] = '\0';
    int others = 0;
    bool there = kept == 0;
    for (char *at = list, *next; *at != '\0'; at = next) {
        pid_t pid = (pid_t)strtol(at, &next, 10);
        if (next == at)
            break;
        if (pid == kept) {
            there = true;
        } else {
            met_others = true;
            kill(pid, SIGKILL);
            others += are_ours || !is_dead(pid);
        }
    }
    return there ? others : -1;
}

int kill_children_but(pid_t kept)
{
    static int fd = -1;
    if (fd < 0)
        fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    return kill_listed(fd, kept, true);
}

// Kills all that /proc shows but us and `kept`, and returns how many of them were alive.
static int kill_shown_but(pid_t kept)
{
    static _Alignas(struct dirent64) char list[LIST_MAX];
    static int fd = -1;
    if (fd < 0)
        fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lseek(fd, in_gvisor ? 0 : PROC_PROCESSES, SEEK_SET) < 0)
        _exit(NOT_CLEAN);
    int alive = 0;
    bool us = false, it = false; // Else something hides processes from us.
    long n = 1;
    for (off64_t next = 0; next < PROC_END && n > 0;) {
        n = syscall(SYS_getdents64, fd, list, sizeof list);
        for (char *at = list; at < list + n; at += ((struct dirent64 *)(void *)at)->d_reclen) {
            pid_t pid = (pid_t)strtol(((struct dirent64 *)(void *)at)->d_name, NULL, 10);
            next = ((struct dirent64 *)(void *)at)->d_off;
            us = us || pid == 1;
            it = it || pid == kept;
            if (pid <= 1 || pid == kept)
                continue;
            met_others = true;
            kill(pid, SIGKILL);
            alive += !is_dead(pid);
        }
    }
    if (n < 0 || !us || !it)
        _exit(NOT_CLEAN);
    return alive;
}

// Kills whom it finds, and says whether that was nobody. A dead child of the runner is the runner's to
// reap: it runs no more.
static bool alone_with(pid_t kept)
{
    int of_parent = parent.children >= 0 ? kill_listed(parent.children, 0, false) : 0;
    int of_us = kill_children_but(kept);
    if (of_parent < 0 || of_us < 0)
        _exit(NOT_CLEAN); // It is gone.
    return kill_shown_but(kept) == 0 && of_parent == 0 && of_us == 0;
}

// Everybody but the runner. All are stopped before the first is killed, the runner too, for what forks
// without end would always be a step ahead; and in each turn again, for one that was not stopped yet
// can have others go on. False where it has ended and was reaped.
bool kill_all_but(pid_t kept)
{
    if (alone_with(kept))
        return true;
    for (int turn = 0;; turn++) {
        if (turn == 4000 || getpid() != 1 || kill(-1, SIGSTOP) != 0)
            _exit(NOT_CLEAN);
        for (pid_t one; (one = waitpid(-1, NULL, WNOHANG | __WALL)) > 0;)
            if (one == kept)
                return false;
        if (alone_with(kept))
            break;
        if (turn > 0)
            nanosleep(&(struct timespec){0, (long)MS_NS / 4}, NULL);
    }
    if (kill(-1, SIGCONT) != 0)
        _exit(NOT_CLEAN);
    return true;
}

// ----------------------------------------------------------------- what calls did to their parent

void parent_forget(void)
{
    close_if_open(&parent.status);
    close_if_open(&parent.children);
    close_if_open(&parent.limits);
}

static uint64_t signals_in(const char *status, const char *name)
{
    const char *at = strstr(status, name); // gVisor shows none.
    return at != NULL ? strtoull(at + strlen(name), NULL, 16) : 0;
}

// What the kernel may send for somebody else, and never matters: no runner ends or stops of these.
static const uint64_t usual = 1U << (SIGCHLD - 1) | 1U << (SIGCONT - 1);

// Whether it has neither ended nor been stopped. Reading its status costs many times as much.
static bool parent_lives(pid_t pid)
{
    siginfo_t info = {.si_pid = 0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0;
}

// Whether the runner waits for the next call: it has not ended, does not stand still, and no signal
// will change that. Called when nobody is alive who could send one, so what was sent is pending, or
// has woken the runner: it then ends, or sleeps again. A handler in a runner that keeps state may be
// busy, and may have blocked signals. One that forks has a second to come to rest.
//
// Where the call had no process but its handler, what that sent was heeded before the runner said that
// the call is done, so it is enough to know that it lives: of one that keeps state in any case, and of
// one that forks where nothing can wait at it. gVisor wakes who was signalled a moment later.
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
        // 't' is a tracer of the host's, since no handler can be one; it goes on.
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

// Whether the runner blocks no signal that matters, and ignores the one that the kernel sends on
// behalf of a process that is gone: when we read from a pipe that a call's process had set so.
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

// All that a process may set of another of the same user that it may not trace, and that forks of
// that one inherit: scheduling (policy, priority, flags), processors, priority of input and output,
// limits. Its memory, descriptors and files in /proc are out of their reach.
static void parent_look(pid_t pid, struct as_it_was *to)
{
    memset(to, 0, sizeof *to);
    to->answers[0] = syscall(SYS_sched_getattr, pid, to->scheduling, sizeof to->scheduling, 0);
    to->answers[1] = syscall(SYS_sched_getaffinity, pid, sizeof to->processors, to->processors);
    to->answers[2] = syscall(SYS_ioprio_get, 1 /* IOPRIO_WHO_PROCESS */, pid);
    if (to->answers[0] < 0) // gVisor knows this alone of it.
        to->answers[0] = syscall(SYS_getpriority, PRIO_PROCESS, pid);
    to->answers[3] = pread(parent.limits, to->limits, sizeof to->limits, 0);
}

// Called when the runner is ready, and no call has come near it.
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
