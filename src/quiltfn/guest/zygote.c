// SPDX-License-Identifier: Apache-2.0
//
// The guest's side of the zygote: a shell that is started once, and forked for each invocation.
// shell.c runs in the zygote.
//
// Rule 1: it has some of the guest's privileges, to give its forks the handler's ids. No handler's
//         code ever runs in it, and it does not get the version's variables, since programs obey
//         some of them (LD_…) when they start.
// Rule 2: if anything is wrong with it, invocations are served without it. There is no zygote if
//         the guest was started without `shell=`, if the shell does not load its library, or if the
//         version has another shell, or a variable that a shell reads only at its start.

#include "zygote.h"
#include "descriptors.h"
#include "protocol.h"
#include "start.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

char *zygote_file;
unsigned char fork_block[sizeof(uint32_t) + BLOCK_MAX];

// The zygote's command line is a comment, which each fork replaces by the handler (see shell.c). A
// zygote may start before the handler is known, so the comment has room for most handlers.
enum { COMMENT = 1023 };

static struct {
    pid_t pid; // 0: there is none.
    int control;
    bool unfit;   // This version cannot have a zygote.
    bool told;    // It has the version's directory and command line.
    size_t room;  // The length of its comment.
} zygote = {.control = -1};

pid_t zygote_process(void)
{
    return zygote.pid;
}

// Whether there is a variable that loader or libc read at a program's start, which a fork skips.
static bool read_at_start(char **env)
{
    static const char *const prefixes[] = {"LD_", "GLIBC_", "MALLOC_"};
    for (; *env != NULL; env++)
        for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
            if (strncmp(*env, prefixes[i], strlen(prefixes[i])) == 0)
                return true;
    return false;
}

// Forgets the zygote, which has been reaped or will be.
void zygote_gone(void)
{
    close_if_open(&zygote.control);
    zygote.pid = 0;
    zygote.told = false;
}

void zygote_end(void)
{
    if (zygote.pid > 0) {
        kill(zygote.pid, SIGKILL);
        waitpid(zygote.pid, NULL, 0);
    }
    zygote_gone();
}

void zygote_abandon(void)
{
    zygote.unfit = true;
    zygote_end();
}

// Sends working directory and command line of the forks to the zygote.
static bool zygote_tell(void)
{
    uint32_t lengths[2] = {(uint32_t)strlen(special.cwd) + 1, (uint32_t)strlen(special.argv[2]) + 1};
    struct iovec parts[3] = {{lengths, sizeof lengths},
                             {(void *)(uintptr_t)special.cwd, lengths[0]},
                             {special.argv[2], lengths[1]}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
    ssize_t whole = (ssize_t)(sizeof lengths + lengths[0] + lengths[1]);
    zygote.told = sendmsg(zygote.control, &message, MSG_NOSIGNAL) == whole;
    return zygote.told;
}

static char bin_sh[] = "/bin/sh";

// Starts the zygote with a comment of `room` bytes. If this fails, there is none.
static void zygote_spawn(size_t room)
{
    static char comment[SPECIALISE_MAX];
    static char preload[PATH_MAX];
    int pair[2], nothing[3] = {0, 1, 2}; // The guest's own: /dev/null.
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return;
    // A shell that does not load the library runs only this comment, and ends.
    memset(comment, '#', room);
    comment[room] = '\0';
    zygote.room = room;
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s", zygote_file);
    char *file = strstr(zygote_file, ".so") == NULL ? zygote_file : bin_sh;
    char option[] = "-c", *argv[] = {file, bin_sh, option, comment, NULL}, *env[] = {preload, NULL};
    could_not(NULL, "", 0);
    zygote.control = pair[0];
    zygote.pid = start(GUEST, nothing, pair[1], CONTROL, argv, env);
    close(pair[1]);
    // A zygote that does not reply within this time has been stopped, or does not work.
    struct timeval patience = {2, 0};
    if (zygote.pid < 0 || failure.step != NULL ||
        setsockopt(zygote.control, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) != 0)
        zygote_end();
}

void zygote_prepare(void)
{
    if (zygote_file != NULL)
        zygote_spawn(COMMENT);
}

static void zygote_start(void)
{
    if (zygote_file == NULL || zygote.unfit || zygote.told)
        return;
    size_t length = strlen(special.argv[2]);
    bool suits = strcmp(special.argv[0], bin_sh) == 0 && !read_at_start(special.env);
    if (length > zygote.room)
        zygote_end();
    if (suits && zygote.pid == 0)
        zygote_spawn(length > COMMENT ? length : COMMENT);
    if (!suits || zygote.pid == 0 || !zygote_tell())
        zygote_abandon();
}

// Makes the zygote fork the shell of the next invocation, with these streams and the end of a pipe
// for its variables. zygote_told reads the reply with the fork's process id.
bool zygote_ask(const int fds[3], int variables)
{
    zygote_start();
    if (zygote.pid <= 0)
        return false;
    int all[FORK_FDS] = {fds[0], fds[1], fds[2], variables};
    struct iovec one = {(void *)(uintptr_t)"f", 1};
    if (send_with(zygote.control, &one, all, FORK_FDS, MSG_NOSIGNAL) == 1)
        return true;
    zygote_abandon();
    return false;
}

// Returns the process id of the fork; 0 if there is none, and the zygote is then abandoned.
pid_t zygote_told(void)
{
    int32_t pid = 0;
    ssize_t n = -1;
    if (zygote.pid > 0)
        do
            n = recv(zygote.control, &pid, sizeof pid, MSG_WAITALL);
        while (n < 0 && errno == EINTR);
    if (n == sizeof pid && pid > 0)
        return pid;
    zygote_abandon();
    return 0;
}

// Writes all variables of an invocation to fork_block and returns the length; 0 if they are too
// long, or if a shell reads one of them only at its start.
size_t zygote_write_block(const struct call *call)
{
    size_t n = sizeof(uint32_t);
    if (call->env_replaces && read_at_start(call->env))
        return 0;
    for (char **one = call->env; *one != NULL; one++) {
        size_t length = strlen(*one) + 1;
        if (length > sizeof fork_block - n)
            return 0;
        memcpy(fork_block + n, *one, length);
        n += length;
    }
    put32(fork_block, (uint32_t)(n - sizeof(uint32_t)));
    return n;
}
