// SPDX-License-Identifier: Apache-2.0
//
// A runner is a program that is started before an invocation arrives and then serves it, so that an
// interpreter need not start for every invocation. docs/reference/runner-protocol.md describes the
// protocol between guest and runner.
//
// Rule 1: a runner is trusted as little as a handler, and has the same ids and limits. Its messages
//         can at most end its own invocation.
// Rule 2: unless the version lets state survive, a process that has run a handler's code serves no
//         second invocation. Either the runner forks a process for each invocation, or it is killed
//         and another one is started.
// Rule 3: two invocations of a runner that forks share no descriptor. An invocation that changes
//         what the next one would inherit ends the sandbox (parent.c).

#include "runner.h"
#include "clock.h"
#include "descriptors.h"
#include "host.h"
#include "parent.h"
#include "privileges.h"
#include "protocol.h"
#include "start.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

// READS_MAX: the maximum number of reads from a runner in one turn without a useful line; together
// they read more than its socket can hold.
enum { ASK_HEAD = 64, START_LOG = 16 * 1024, READS_MAX = 512 };
#define START_NS (UINT64_C(120) * SECOND_NS)

struct runner runner = {.control = -1, .out = -1, .log = -1, .file = -1, .given = {-1, -1, -1}};

static unsigned char ask[ASK_HEAD + ENV_MAX + CHUNK_MAX];
static unsigned char start_log[START_LOG];

void runner_close(void)
{
    close_if_open(&runner.control);
    close_if_open(&runner.out);
    close_if_open(&runner.log);
    parent_forget();
    runner.pid = 0;
    runner.line_used = 0;
}

unsigned char runner_out_kind(void)
{
    return runner.result_on_stdout ? 'T' : 'O';
}

void runner_forget_call(void)
{
    close_if_open(&runner.file);
    explicit_bzero(ask, runner.ask_used);
    runner.ask_used = runner.ask_sent = runner.file_left = runner.result_left = 0;
}

// -------------------------------------------------------------------- requesting an invocation

// "call NONCE TIMEOUT_MS all|add VARIABLES_BYTES PAYLOAD_BYTES", filled up with spaces to ASK_HEAD
// bytes, including the newline, so that a runner can read it and leave the rest to the process that
// it forks for the invocation; then the variables, each with a final NUL; then the payload. A large
// payload is stored in a file, so that a runner that does not read delays only its own invocation.
bool runner_ask(const struct call *call)
{
    unsigned char *at = ask + ASK_HEAD;
    for (char **one = special.env + special.env_count; *one != NULL; one++) {
        size_t n = strlen(*one) + 1;
        memcpy(at, *one, n);
        at += n;
    }
    int n = snprintf((char *)ask, ASK_HEAD, "call %" PRIu64 " %" PRIu32 " %s %td %lld", call->nonce,
                     call->timeout_ms, call->env_replaces ? "all" : "add", at - ask - ASK_HEAD,
                     call->has_payload ? (long long)call->payload_bytes : -1LL);
    memset(ask + n, ' ', (size_t)(ASK_HEAD - 1 - n));
    ask[ASK_HEAD - 1] = '\n';
    runner.ask_sent = 0;
    bool fine = true;
    if (call->payload_bytes <= CHUNK_MAX) {
        in_exactly(at, call->payload_bytes);
        at += call->payload_bytes;
    } else {
        runner.file = payload_file();
        if (runner.file < 0)
            could_not("store the payload", "", errno);
        fine = take_payload(runner.file, call->payload_bytes);
        runner.file_sent = 0;
        runner.file_left = call->payload_bytes;
    }
    runner.ask_used = (size_t)(at - ask);
    return fine;
}

// Creates the streams of the next invocation of a runner that forks, if there are none yet. If
// invocations shared a pipe, one could affect the next one through settings of the pipe: its size,
// flags, times and owner, and which process gets signals when it is read.
bool runner_open_streams(void)
{
    if (!runner.forks || runner.given[0] >= 0)
        return true;
    runner.streams[0] = (struct stream){.fd = -1, .kind = runner_out_kind()};
    runner.streams[1] = (struct stream){.fd = -1, .kind = 'E'};
    act_as_handler();
    bool fine = open_streams(false, runner.given, runner.streams);
    act_as_guest();
    if (fine)
        return true;
    close_all(runner.given);
    close_if_open(&runner.streams[0].fd);
    close_if_open(&runner.streams[1].fd);
    return false;
}

// Sends the beginning of an invocation, with its streams attached to the first byte.
static ssize_t runner_send_streams(void)
{
    struct iovec bytes = {ask, runner.ask_used};
    ssize_t n = send_with(runner.control, &bytes, runner.given, 3, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0)
        close_all(runner.given);
    return n;
}

// Adds the runner's own output, up to one full pipe of each stream, to the log of the invocation,
// and closes the streams of the invocation.
void runner_close_streams(struct stream *log, uint64_t nonce)
{
    int *own[] = {&runner.out, &runner.log};
    for (size_t i = 0; i < 2; i++) {
        int of_call = log->fd;
        log->fd = *own[i];
        if (*own[i] >= 0)
            pump(log, nonce);
        log->fd = of_call;
    }
    close_if_open(&runner.streams[0].fd);
    close_if_open(&runner.streams[1].fd);
    close_all(runner.given);
}

void runner_go_ahead(void)
{
    static const char line[ASK_HEAD + 1] =
        "ahead                                                          \n";
    if (runner.forks_ahead)
        send(runner.control, line, ASK_HEAD, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// Sends as much as the runner's socket accepts now.
void runner_send(void)
{
    while (runner.ask_sent < runner.ask_used) {
        ssize_t n = runner.given[0] >= 0
                        ? runner_send_streams()
                        : send(runner.control, ask + runner.ask_sent,
                               runner.ask_used - runner.ask_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            return; // Full: poll reports when there is room. Closed: handled elsewhere.
        runner.ask_sent += (size_t)n;
    }
    while (runner.file_left > 0) {
        ssize_t n = sendfile(runner.control, runner.file, &runner.file_sent, runner.file_left);
        if (n <= 0)
            return;
        runner.file_left -= (size_t)n;
    }
}

// Whether the runner has read all data sent to it. It would mistake unread data for the next
// invocation.
bool runner_has_read(void)
{
    int unread = 0;
    return runner.control >= 0 && runner.ask_sent == runner.ask_used && runner.file_left == 0 &&
           ioctl(runner.control, SIOCOUTQ, &unread) == 0 && unread == 0;
}

// Whether the runner has sent data without a request.
bool runner_has_written(void)
{
    return runner.line_used > 0 || (runner.control >= 0 && held_by(runner.control) > 0);
}

struct pollfd runner_poll(void)
{
    bool more = runner.ask_sent < runner.ask_used || runner.file_left > 0;
    return (struct pollfd){.fd = runner.control,
                           .events = (short)(POLLIN | (more ? POLLOUT : 0))};
}

// ------------------------------------------------------------------------------ hearing from it

// Returns one line without its newline; NULL while it is incomplete or if `reads` are used up.
// After a line that is too long, or the end of the socket, nothing more is read from the runner:
// the invocation ends at its deadline or with the runner.
static char *runner_line(unsigned *reads)
{
    static char line[LINE];
    for (;;) {
        char *end = memchr(runner.line, '\n', runner.line_used);
        if (end != NULL) {
            size_t n = (size_t)(end - runner.line);
            memcpy(line, runner.line, n);
            line[n] = '\0';
            runner.line_used -= n + 1;
            memmove(runner.line, end + 1, runner.line_used);
            return line;
        }
        if (*reads == 0)
            return NULL; // Poll reports further data.
        --*reads;
        ssize_t n = recv(runner.control, runner.line + runner.line_used,
                         sizeof runner.line - runner.line_used, MSG_DONTWAIT);
        if (n < 0)
            return NULL;
        if (n == 0) { // At the end, or if the buffer is full, since then 0 bytes are requested.
            close_if_open(&runner.control);
            return NULL;
        }
        runner.line_used += (size_t)n;
    }
}

// Passes on the result that follows `done`, as far as it has arrived, beginning with the bytes that
// were read together with that line. The result counts as output of descriptor 1 if standard output
// is the result too, or if results have no separate limit.
static void runner_result(struct stream streams[3], uint64_t nonce)
{
    bool together = streams[0].kind == 'T' || !result_has_limit;
    struct stream *stream = together ? &streams[0] : &streams[2];
    static unsigned char some[CHUNK_MAX];
    while (runner.result_left > 0) {
        ssize_t n;
        if (runner.line_used > 0) {
            n = (ssize_t)(runner.line_used < runner.result_left ? runner.line_used
                                                                : runner.result_left);
            memcpy(some, runner.line, (size_t)n);
            runner.line_used -= (size_t)n;
            memmove(runner.line, runner.line + n, runner.line_used);
        } else {
            n = recv(runner.control, some, runner.result_left, MSG_DONTWAIT);
            if (n == 0) { // The runner ended within its result; the received part counts.
                close_if_open(&runner.control);
                runner.result_left = 0;
            }
            if (n <= 0)
                return;
        }
        runner.result_left -= (size_t)n;
        size_t room = room_of(stream);
        size_t keep = (size_t)n < room ? (size_t)n : room;
        stream->dropped += (size_t)n - keep;
        if (keep == 0)
            continue;
        if (out.used == 0)
            out.since = now_ns();
        unsigned char *to = out_frame('T', NONCE + keep);
        put64(to, nonce);
        memcpy(to + NONCE, some, keep);
        stream->sent += keep;
    }
}

// Reads "done NONCE exited|killed CODE [BYTES]" and that many bytes of result. Returns true once
// all of it has arrived for this invocation. Earlier standard output is sent before the result.
bool runner_turn(short revents, uint64_t nonce, struct stream streams[3], struct end *end)
{
    if ((revents & POLLOUT) != 0)
        runner_send();
    if (runner.result_left > 0) {
        runner_result(streams, nonce);
        *end = runner.end;
        return runner.result_left == 0;
    }
    char *line;
    unsigned reads = READS_MAX;
    while (runner.control >= 0 && (line = runner_line(&reads)) != NULL) {
        uint64_t which;
        uint32_t code, bytes = 0;
        char how[8];
        if (sscanf(line, "done %" SCNu64 " %7s %" SCNu32 " %" SCNu32, &which, how, &code,
                   &bytes) < 3)
            continue;
        bool killed = strcmp(how, "killed") == 0;
        if (which != nonce || code > 255 || bytes > CHUNK_MAX ||
            (!killed && strcmp(how, "exited") != 0))
            continue;
        *end = runner.end = (struct end){killed ? KILLED : EXITED, code};
        if (bytes > 0 && streams[0].fd >= 0)
            pump_held(&streams[0], nonce);
        runner.result_left = bytes;
        runner_result(streams, nonce);
        return runner.result_left == 0;
    }
    return false;
}

// -------------------------------------------------------------------------------------- starting

static bool runner_open(int fds[3], int *control)
{
    struct stream streams[2] = {{.fd = -1}, {.fd = -1}};
    int pair[2];
    act_as_handler();
    bool fine = open_streams(false, fds, streams);
    runner.out = streams[0].fd;
    runner.log = streams[1].fd;
    fine = fine && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0;
    if (fine) {
        runner.control = pair[0];
        *control = pair[1];
        fine = fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0;
    }
    if (!fine)
        could_not("create the streams of its runner", "", errno);
    act_as_guest();
    return fine;
}

// Reads the bytes that are in the pipe now. Keeps the newest output, and discards older output.
static void runner_keep_start(int *fd)
{
    static unsigned char some[4096];
    size_t held = *fd >= 0 ? held_by(*fd) : 0;
    for (bool first = true; *fd >= 0 && (first || held > 0); first = false) {
        ssize_t n = read(*fd, some, sizeof some);
        if (n == 0) // The runner has closed the pipe; poll would always return at once.
            close_if_open(fd);
        if (n <= 0)
            return;
        held -= (size_t)n < held ? (size_t)n : held;
        size_t used = runner.start_log_used, most = sizeof start_log - (size_t)n;
        size_t stays = used < most ? used : most;
        memmove(start_log, start_log + used - stays, stays);
        memcpy(start_log + stays, some, (size_t)n);
        runner.start_log_used = stays + (size_t)n;
    }
}

void runner_tell_start(struct stream *log, uint64_t nonce)
{
    add_to(log, nonce, start_log, runner.start_log_used);
    runner.start_log_used = 0;
}

size_t runner_last_log(unsigned char *to)
{
    size_t used = runner.start_log_used, n = used < LAST_WORDS ? used : LAST_WORDS;
    memcpy(to, start_log + used - n, n);
    return n;
}

// Waits for "ready fork|keep|once [NOTE]" or "refused WHY"; before "ready", "result stdout" and
// "forks ahead" may come.
static int runner_await(void)
{
    uint64_t deadline = now_ns() + START_NS;
    bool got_line = false; // Then another line may already be there.
    for (;;) {
        uint64_t now = now_ns();
        if (now >= deadline) {
            snprintf(runner.told, sizeof runner.told, "the runtime's program was not ready in time");
            return ETIMEDOUT;
        }
        struct timespec timeout = {got_line ? 0 : (time_t)((deadline - now) / SECOND_NS) + 1, 0};
        struct pollfd polled[5] = {{.fd = CONTROL, .events = POLLIN},
                                   {.fd = child_signal, .events = POLLIN},
                                   {.fd = runner.out, .events = POLLIN},
                                   {.fd = runner.log, .events = POLLIN},
                                   runner_poll()};
        if (ppoll(polled, 5, &timeout, NULL) < 0 && errno != EINTR)
            _exit(BROKEN);
        if (polled[0].revents != 0)
            check_host();
        runner_send();
        runner_keep_start(&runner.out);
        runner_keep_start(&runner.log);
        unsigned reads = READS_MAX;
        char *line = runner.control >= 0 ? runner_line(&reads) : NULL;
        got_line = line != NULL;
        if (line != NULL && strcmp(line, "result stdout") == 0)
            runner.result_on_stdout = true;
        if (line != NULL && strcmp(line, "forks ahead") == 0)
            runner.forks_ahead = true;
        if (line != NULL && strncmp(line, "ready ", 6) == 0) {
            // Reads output that was written before the line but arrived after the read above.
            runner_keep_start(&runner.out);
            runner_keep_start(&runner.log);
            runner.forks = strncmp(line + 6, "fork", 4) == 0;
            if (runner.forks || special.keep_state)
                parent_remember(runner.pid, runner.forks);
            snprintf(runner.told, sizeof runner.told, "%s", line + 6);
            return 0;
        }
        if (line != NULL && strncmp(line, "refused ", 8) == 0) {
            snprintf(runner.told, sizeof runner.told, "%s", line + 8);
            runner_keep_start(&runner.out);
            runner_keep_start(&runner.log);
            return ENOEXEC;
        }
        int status = 0;
        bool more = false;
        forget_child_signal();
        if (reap(runner.pid, &status, &more)) {
            runner_keep_start(&runner.out);
            runner_keep_start(&runner.log);
            struct end end = end_of(status);
            snprintf(runner.told, sizeof runner.told,
                     "the runtime's program %s %" PRIu32 " before it was ready",
                     end.kind == EXITED ? "ended with status" : "was killed by signal", end.code);
            runner.pid = 0;
            return ECHILD;
        }
    }
}

// Starts the runner. On failure the runner has ended, and `told` has the reason.
int runner_spawn(void)
{
    int fds[3] = {-1, -1, -1}, control = -1;
    could_not(NULL, "", 0);
    runner.forks = runner.forks_ahead = runner.result_on_stdout = false;
    runner.start_log_used = 0;
    bool fine = runner_open(fds, &control);
    pid_t pid = fine ? start(HANDLER, fds, control, CONTROL, special.argv, special.env) : -1;
    if (fine && pid < 0)
        could_not("start a process", "", errno);
    close_all(fds);
    close_if_open(&control);
    runner.pid = pid;
    if (failure.step == NULL)
        return 0;
    snprintf(runner.told, sizeof runner.told, "the sandbox could not %s%.300s: %s", failure.step,
             failure.name, strerror(failure.error));
    return failure.error;
}

// Starts the runner and waits until it is ready for an invocation. Returns 0, or an errno.
int runner_start(void)
{
    return runner_spawn() != 0 ? failure.error : runner_await();
}

// Ends a prepared runner that cannot be used.
void runner_drop(void)
{
    kill(runner.pid, SIGKILL);
    waitpid(runner.pid, NULL, 0);
    runner_close();
}

// Tells a prepared runner its function: "load DIRECTORY_BYTES VARIABLES_BYTES", padded like the
// head of an invocation, then the bytes of both.
int runner_load(void)
{
    size_t directory = strlen(special.cwd);
    unsigned char *at = ask + ASK_HEAD;
    memcpy(at, special.cwd, directory);
    at += directory;
    for (size_t i = 0; i < special.env_count; i++) {
        size_t n = strlen(special.env[i]) + 1;
        memcpy(at, special.env[i], n);
        at += n;
    }
    int n = snprintf((char *)ask, ASK_HEAD, "load %zu %td", directory,
                     at - ask - ASK_HEAD - (ptrdiff_t)directory);
    memset(ask + n, ' ', (size_t)(ASK_HEAD - 1 - n));
    ask[ASK_HEAD - 1] = '\n';
    runner.ask_sent = 0;
    runner.ask_used = (size_t)(at - ask);
    int error = runner_await();
    runner_forget_call();
    return error;
}
