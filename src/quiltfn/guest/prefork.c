// SPDX-License-Identifier: Apache-2.0
//
// The shell of the next invocation, started while the sandbox is idle. When the invocation arrives,
// the shell is already loaded and waits only for the variables.
//
// Rule 1: it is started when nothing is left of the previous invocation, and has no data of any
//         invocation.
// Rule 2: it must behave like `sh -c HANDLER`. If it cannot, or has ended already (a syntax error
//         in the first line ends it), the invocation starts another shell.
//
// It is a fork of the zygote (zygote.c), before its main. Without a zygote it is a new shell, which
// reads its variables as a script: `sh -c '. /dev/fd/9;HANDLER'`. So $0, $-, line numbers and
// messages are those of `sh -c HANDLER`, unlike if the whole handler were read from a descriptor.

#include "prefork.h"
#include "descriptors.h"
#include "host.h"
#include "privileges.h"
#include "start.h"
#include "zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FORK_RESTS_S = 2, ZYGOTE_RESTS_S = 60 }; // Without an invocation.
enum { SCRIPT_FD = 9, SCRIPT_MAX = 60 * 1024 }; // A pipe holds 64 KiB, so writing never waits.

static struct {
    pid_t pid; // 0: there is none, or the zygote has not reported the process id of its fork yet.
    bool forked;
    int input, script;
    struct stream streams[2];
} prefork = {.input = -1, .script = -1};

static char prefork_line[SPECIALISE_MAX + 32];
static unsigned char prefork_script[SCRIPT_MAX];

static void prefork_forget(void)
{
    close_if_open(&prefork.input);
    close_if_open(&prefork.script);
    prefork.pid = 0;
    prefork.forked = false;
}

static void prefork_drop(void)
{
    if (prefork.pid > 0) {
        kill(prefork.pid, SIGKILL);
        waitpid(prefork.pid, NULL, 0);
    }
    for (int i = 0; i < 2; i++)
        close_if_open(&prefork.streams[i].fd);
    prefork_forget();
}

// Starts the shell that reads its variables as a script. Returns its process, or 0. Not for a
// command line that begins like an option: after the script, the shell would not parse it as an
// option.
static pid_t prefork_execute(const int fds[3], int script)
{
    if (special.argv[2][0] == '-' || special.argv[2][0] == '+')
        return 0;
    if (prefork_line[0] == '\0')
        snprintf(prefork_line, sizeof prefork_line, ". /dev/fd/%d;%s", SCRIPT_FD, special.argv[2]);
    char *argv[] = {special.argv[0], special.argv[1], prefork_line, NULL};
    could_not(NULL, "", 0);
    pid_t pid = start(HANDLER, fds, script, SCRIPT_FD, argv, special.env);
    if (pid > 0 && failure.step == NULL)
        return pid;
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return 0;
}

// If this fails, the invocation starts a shell itself, and reports errors.
void prefork_start(void)
{
    if (!special.shell)
        return;
    int fds[3] = {-1, -1, -1}, script[2] = {-1, -1};
    prefork.streams[0] = (struct stream){.fd = -1, .kind = 'O'};
    prefork.streams[1] = (struct stream){.fd = -1, .kind = 'E'};
    // The standard input is a file that gets the payload later.
    act_as_handler();
    bool fine = open_streams(true, fds, prefork.streams) && pipe2(script, O_CLOEXEC) == 0;
    // Before the start: while the guest has the handlers' effective id, they could change its
    // priority.
    act_as_guest();
    prefork.forked = fine && zygote_ask(fds, script[0]);
    if (fine && !prefork.forked)
        prefork.pid = prefork_execute(fds, script[0]);
    close_if_open(&script[0]);
    prefork.script = script[1];
    prefork.input = fds[0];
    fds[0] = -1; // This descriptor is prefork.input from here on.
    close_all(fds);
    if (prefork.pid == 0 && !prefork.forked)
        prefork_drop();
    in_patience(FORK_RESTS_S);
}

// Called after each time set by in_patience without a frame. Ends first the waiting shell, then the
// zygote, which together have half of an idle sandbox's memory. The next invocation starts them.
void prefork_rest(void)
{
    bool waits = prefork.pid != 0 || prefork.forked;
    if (prefork.forked)
        prefork.pid = zygote_told();
    prefork_drop();
    if (!waits)
        zygote_end();
    in_patience(waits ? ZYGOTE_RESTS_S - FORK_RESTS_S : 0);
}

// Writes the invocation's variables as lines of shell. Returns their length; 0 if they are too
// long.
static size_t prefork_write_script(const struct call *call)
{
    static const char end[] = "exec 9<&-\n";
    size_t n = 0, most = sizeof prefork_script - sizeof end;
    for (char **one = call->env + special.env_count; *one != NULL; one++) {
        const char *value = strchr(*one, '=');
        size_t name = (size_t)(value - *one);
        if (strlen(*one) * 4 + 16 > most - n) // Each ' becomes four.
            return 0;
        memcpy(prefork_script + n, "export ", 7);
        memcpy(prefork_script + n + 7, *one, name);
        n += 7 + name;
        memcpy(prefork_script + n, "='", 2);
        n += 2;
        for (value++; *value != '\0'; value++) {
            if (*value == '\'') {
                memcpy(prefork_script + n, "'\\''", 4);
                n += 4;
            } else {
                prefork_script[n++] = (unsigned char)*value;
            }
        }
        memcpy(prefork_script + n, "'\n", 2);
        n += 2;
    }
    memcpy(prefork_script + n, end, sizeof end - 1);
    return n + sizeof end - 1;
}

// Lets the waiting shell serve the invocation. Returns its process, -1 with `failure` set, or 0 if
// the invocation has to start a shell itself.
pid_t prefork_take(const struct call *call, struct stream streams[2])
{
    if (prefork.pid == 0 && !prefork.forked) {
        // The shell starts as it does between invocations: without this invocation's variables,
        // which it gets below. If it cannot start, the invocation starts another one.
        char *first = special.env[special.env_count];
        special.env[special.env_count] = NULL;
        prefork_start();
        special.env[special.env_count] = first;
        could_not(NULL, "", 0);
    }
    if (prefork.forked)
        prefork.pid = zygote_told();
    // A script cannot replace all variables: IFS has an effect there but not in the environment,
    // and some shells refuse to set a few variables.
    unsigned char *told = prefork.forked ? fork_block : prefork_script;
    size_t length = 0;
    if (prefork.pid > 0 && prefork.forked)
        length = zygote_write_block(call);
    else if (prefork.pid > 0 && !call->env_replaces)
        length = prefork_write_script(call);
    if (length == 0 || waitpid(prefork.pid, NULL, WNOHANG) != 0) {
        if (prefork.pid > 0 || prefork.forked)
            prefork_drop();
        return 0;
    }
    pid_t pid = prefork.pid;
    memcpy(streams, prefork.streams, sizeof prefork.streams);
    bool fine = !call->has_payload || take_payload(prefork.input, call->payload_bytes);
    ssize_t n = fine ? write(prefork.script, told, length) : 0;
    explicit_bzero(told, length);
    prefork_forget();
    if (fine && n != (ssize_t)length && errno != EPIPE)
        could_not("pass the invocation to the shell", "", errno);
    return failure.step == NULL ? pid : -1;
}
