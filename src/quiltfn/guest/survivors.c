// SPDX-License-Identifier: Apache-2.0
//
// Finds and kills the processes that an invocation leaves beside a runner that stays.
//
// Rule 1: the runner's help is not used and its messages are not trusted. It may be an interpreter
//         that has run the handler.
// Rule 2: every process of the sandbox descends from the guest. So if the guest's only child is the
//         runner, and the runner has no child, no process of an invocation is alive. The runner's
//         children are examined first: a process whose parent ends becomes a child of the guest, or
//         of an ancestor that adopts orphans, and never moves down again.
// Rule 3: this is not enough if a runner has threads, each with a separate list of children, or
//         keeps state, so that the handler runs in the runner itself. Then /proc is read as well.

#include "survivors.h"
#include "clock.h"
#include "descriptors.h"
#include "parent.h"
#include "privileges.h"
#include "processes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LIST_MAX = 8 * 1024 };

// Positions in Linux's listing of /proc: of its first process, since the entries before it are not
// needed, and of its end. The end allows for /proc/self, /proc/thread-self, and the largest number
// of processes that a 64-bit kernel can have.
enum { PROC_PROCESSES = 256, PROC_END = PROC_PROCESSES + 2 + 4 * 1024 * 1024 };

// Reads a file's text. Returns its length; -1 on failure, with errno set.
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

// Whether a process is a zombie without running threads. A process whose first thread has ended is
// also shown as a zombie while other threads run.
static bool is_dead(pid_t pid)
{
    char text[1024];
    ssize_t n = read_of(pid, "stat", text, sizeof text);
    if (n <= 0)
        return n < 0 && (errno == ENOENT || errno == ESRCH);
    char *state = strrchr(text, ')'); // After the name, which may contain any bytes.
    int threads;
    return state != NULL && (state[2] == 'Z' || state[2] == 'X') &&
           sscanf(state + 3, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %d",
                  &threads) == 1 &&
           threads <= 1;
}

// Kills all children in a list except `kept`. Returns their number, or -1 if `kept` was not among
// them. Counts zombies only if the guest has to reap them.
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

// Kills all processes in /proc except the guest and `kept`. Returns how many of them were alive.
static int kill_shown_but(pid_t kept)
{
    static _Alignas(struct dirent64) char list[LIST_MAX];
    static int fd = -1;
    if (fd < 0)
        fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lseek(fd, in_gvisor ? 0 : PROC_PROCESSES, SEEK_SET) < 0)
        _exit(NOT_CLEAN);
    int alive = 0;
    bool us = false, it = false; // Both must be found; otherwise /proc hides processes.
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

// Kills every other process that it finds, and returns whether there was none. A zombie that the
// runner has to reap does not count.
static bool alone_with(pid_t kept)
{
    int of_parent = parent_children() >= 0 ? kill_listed(parent_children(), 0, false) : 0;
    int of_us = kill_children_but(kept);
    if (of_parent < 0 || of_us < 0)
        _exit(NOT_CLEAN); // The runner is gone.
    return kill_shown_but(kept) == 0 && of_parent == 0 && of_us == 0;
}

// Kills all processes except the guest and the runner. First stops all, including the runner, since
// processes that fork endlessly could not be killed one by one. Each turn repeats this, since a
// process that was not stopped yet can continue others. Returns false if the runner has ended and
// was reaped.
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
