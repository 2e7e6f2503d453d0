// SPDX-License-Identifier: Apache-2.0
//
// One invocation: starts it, or passes it to a runner; watches it until its end; then removes its
// leftovers. Read from the bottom: serve_call, serve_by_process and serve_by_runner, watch.

#include "call.h"
#include "clean.h"
#include "clock.h"
#include "descriptors.h"
#include "frames.h"
#include "host.h"
#include "parent.h"
#include "prefork.h"
#include "privileges.h"
#include "processes.h"
#include "protocol.h"
#include "runner.h"
#include "start.h"
#include "streams.h"
#include "survivors.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

// Output is held back for this time, so that more output or the end of the invocation is sent with
// it: a short handler then wakes the host once instead of twice. If a client follows the
// invocation, output is sent at once, up to a mean rate of one send per LINGER_NS and a short
// burst: a flood of short writes still wakes the host only about 500 times a second.
#define LINGER_NS UINT64_C(2000000)
#define AHEAD_NS (8 * LINGER_NS)

// Waits for the handler's end or its deadline, whichever is detected first, and meanwhile moves
// output. Each turn moves at most one chunk of each stream, reaps children and checks the clock, so
// a flood on one stream delays neither the other one nor the deadline.
//
// With a runner, `handler` is the runner's process. The invocation ends when the runner reports its
// end, or when the runner ends.
static struct end watch(pid_t handler, uint64_t deadline, struct stream streams[3],
                        const struct call *call)
{
    uint64_t nonce = call->nonce, paid = now_ns();
    struct end end;
    int status = 0;
    bool more = false;
    for (;;) {
        uint64_t now = now_ns();
        if (now >= deadline)
            return (struct end){DEADLINE, 0};
        uint64_t due = call->followed ? paid - AHEAD_NS : out.since + LINGER_NS;
        if (out.used > 0 && now >= due) {
            out_send();
            paid = (paid > now ? paid : now) + LINGER_NS;
        }
        uint64_t wait = deadline - now;
        if (out.used > 0 && due - now < wait)
            wait = due - now;
        if (more)
            wait = 0;
        struct timespec timeout = {(time_t)(wait / SECOND_NS), (long)(wait % SECOND_NS)};
        struct pollfd polled[5] = {
            {.fd = CONTROL, .events = POLLIN},
            {.fd = child_signal, .events = POLLIN},
            // A stream at its end would make poll return at once, forever; poll ignores -1.
            {.fd = streams[0].ended ? -1 : streams[0].fd, .events = POLLIN},
            {.fd = streams[1].ended ? -1 : streams[1].fd, .events = POLLIN},
            runner_poll(),
        };
        if (ppoll(polled, 5, &timeout, NULL) < 0 && errno != EINTR)
            _exit(BROKEN);
        if (polled[0].revents != 0)
            check_host();
        if (polled[2].revents != 0)
            pump(&streams[0], nonce);
        if (polled[3].revents != 0)
            pump(&streams[1], nonce);
        // Read before the check for the runner's end, since messages from before the end count.
        if (polled[4].revents != 0 && runner_turn(polled[4].revents, nonce, streams, &end))
            return end;
        if (polled[1].revents != 0 || more) {
            forget_child_signal();
            if (reap(handler, &status, &more)) {
                runner.pid = 0;
                return end_of(status);
            }
        }
    }
}

// Sends END, cleans, and sends CLEAN. The check for leftovers takes microseconds; removing them may
// take longer. So without leftovers, END and CLEAN are one send; with leftovers, or if a runner
// must be started, END is sent first. If a runner keeps its state, shared memory and System V
// objects are part of that state.
static void finish(uint64_t nonce, bool start_again)
{
    int highest[3];
    bool tmp = !special.keep_tmp && touched("/tmp");
    bool shm = !special.keep_state && touched("/dev/shm");
    bool sysv = !special.keep_state && count_sysv(highest) != 0;
    bool dirty = tmp || shm || sysv || start_again;
    for (char **one = writable; !special.keep_tmp && *one != NULL; one++)
        dirty = dirty || touched(*one);
    if (dirty)
        out_send();
    if (sysv)
        remove_sysv(highest);
    if (tmp)
        renew("/tmp", 0, tmp_options);
    if (shm)
        renew("/dev/shm", MS_NOEXEC, shm_options);
    for (char **one = writable; dirty && !special.keep_tmp && *one != NULL; one++)
        if (touched(*one))
            renew(*one, 0, tmp_options);
    if (start_again && runner_start() != 0)
        _exit(NOT_CLEAN);
    put64(out_frame('Z', NONCE), nonce);
    out_send();
}

static void report(uint64_t nonce, struct end end, const struct stream streams[3])
{
    char text[TEXT_MAX];
    int text_length = 0;
    uint64_t dropped[3] = {0};
    for (int i = 0; i < 3; i++)
        dropped[streams[i].kind == 'E' ? 1 : streams[i].kind == 'T' && result_has_limit ? 2 : 0] +=
            streams[i].dropped;
    if (end.kind == NOT_STARTED)
        text_length = snprintf(text, sizeof text, "the sandbox could not %s%.300s: %s",
                               failure.step, failure.name, strerror(failure.error));
    unsigned char *at = out_frame('X', END_HEAD + (size_t)text_length);
    put64(at, nonce);
    put32(at + 8, end.kind);
    put32(at + 12, end.code);
    for (int i = 0; i < 3; i++)
        put64(at + 16 + 8 * i, dropped[i]);
    memcpy(at + END_HEAD, text, (size_t)text_length);
}

// Overwrites variables and payload of an invocation once the handler has them, so that the guest
// does not keep them in memory longer than needed. Also cuts the list of variables, so that the
// next process does not get the overwritten ones as empty strings.
static void wipe_call(const struct call *call)
{
    special.env[special.env_count] = NULL;
    explicit_bzero(call_env, call->env_bytes);
    in_wipe();
}

// Returns the process, or -1 with `failure` set.
static pid_t start_now(struct call *call, struct stream streams[2])
{
    int fds[3] = {-1, -1, -1};
    act_as_handler();
    bool fine = open_streams(call->has_payload, fds, streams);
    act_as_guest();
    if (call->has_payload)
        fine = take_payload(fine ? fds[0] : -1, call->payload_bytes) && fine;
    pid_t handler = fine ? start(HANDLER, fds, -1, 0, special.argv, call->env) : -1;
    if (fine && handler < 0)
        could_not("start a process", "", errno);
    // The handler has its own copies now. If these stayed open, its pipes would not end.
    close_all(fds);
    return failure.step == NULL ? handler : -1;
}

static void serve_by_process(struct call *call)
{
    struct stream streams[3] = {
        {.fd = -1, .kind = 'O'}, {.fd = -1, .kind = 'E'}, {.fd = -1, .kind = 'T'}};
    struct end end = {NOT_STARTED, 0};
    pid_t handler = prefork_take(call, streams);
    if (handler == 0)
        handler = start_now(call, streams);
    expect_silence();
    uint64_t deadline = now_ns() + call->timeout_ms * MS_NS;
    wipe_call(call);
    if (handler > 0)
        end = watch(handler, deadline, streams, call);
    else
        end.code = (uint32_t)failure.error;

    kill_everyone();
    empty(streams, call->nonce);
    for (int i = 0; i < 2; i++)
        close_if_open(&streams[i].fd);
    report(call->nonce, end, streams);
    finish(call->nonce, false);
    if (end.kind == EXITED || end.kind == KILLED)
        prefork_start();
}

static void serve_by_runner(struct call *call)
{
    if (runner.pid == 0)
        _exit(BAD_FRAME); // The runner ended with the previous invocation, and the host knows it.
    struct stream streams[3] = {{.fd = runner.out, .kind = runner_out_kind()},
                                {.fd = runner.log, .kind = 'E'},
                                {.fd = -1, .kind = 'T'}};
    struct end end = {NOT_STARTED, 0};
    met_others = false;
    bool fine = runner_open_streams();
    fine = runner_ask(call) && fine;
    // Refused, since messages from before the invocation could be taken for the reply to it.
    if (runner_has_written()) {
        could_not("call the runtime's program", ", which wrote to its control socket too early",
                  EPROTO);
        fine = false;
    }
    if (runner.forks)
        memcpy(streams, runner.streams, sizeof runner.streams);
    expect_silence();
    uint64_t deadline = now_ns() + call->timeout_ms * MS_NS;
    wipe_call(call);
    runner_tell_start(&streams[1], call->nonce);
    if (fine)
        runner_send();
    if (fine)
        end = watch(runner.pid, deadline, streams, call);
    else
        end.code = (uint32_t)failure.error;

    bool stays = special.keep_state || runner.forks;
    bool spoilt = runner.pid == 0 || !runner_has_read() || runner.line_used > 0;
    bool goes_on = stays && !spoilt && end.kind != DEADLINE;
    bool there = goes_on && kill_all_but(runner.pid);
    if (!there)
        kill_everyone();
    empty(streams, call->nonce);
    if (runner.forks)
        runner_close_streams(&streams[1], call->nonce);
    if (goes_on) {
        // Checked last, so that the runner has had time to become idle.
        bool same = there && (!runner.forks || parent_is_as_it_was(runner.pid));
        bool waits = there && parent_waits(runner.pid, runner.forks);
        spoilt = !same || !waits;
        if (runner.forks && spoilt) {
            const char *why =
                waits ? "the invocation changed the process from which it was forked\n"
                      : "the invocation ended, stopped or signalled the process from which it was "
                        "forked\n";
            add_to(&streams[1], call->nonce, why, strlen(why));
            end = (struct end){EXITED, 1};
        }
    }
    report(call->nonce, end, streams);
    runner_forget_call();
    if (end.kind == DEADLINE || (stays && spoilt)) {
        // The sandbox is not used again, for one of these reasons: the runner has ended, or was
        // killed at an unknown point; the invocation has changed it; it would read the rest of this
        // invocation as the next one; it has sent more than its reply, which would count as the
        // reply to the next invocation.
        out_send();
        _exit(GONE);
    }
    if (!stays)
        runner_close();
    finish(call->nonce, !stays);
    runner_go_ahead();
    // If this fails, the next invocation tries again and reports the reason.
    if (!runner_open_streams())
        could_not(NULL, "", 0);
}

void serve_call(size_t length)
{
    unsigned char head[CALL_HEAD];
    struct call call;
    if (!special.ready || length < CALL_HEAD || length > CALL_MAX)
        _exit(BAD_FRAME);
    in_exactly(head, sizeof head);
    if (!parse_call_head(head, length, &call))
        _exit(BAD_FRAME);
    in_exactly(call_env, call.env_bytes);
    if (!parse_call_env(call_env, call.env_bytes, &call))
        _exit(BAD_FRAME);
    could_not(NULL, "", 0);
    if (special.resident)
        serve_by_runner(&call);
    else
        serve_by_process(&call);
}
