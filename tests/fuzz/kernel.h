// SPDX-License-Identifier: Apache-2.0
//
// A simulated kernel for the guest, in memory. The input of a fuzzer, the tape, says what handlers, runner
// and host do. What the guest sends is checked as a host would check it.
//
// Rule 1: the guest's sources are not changed for it. The macros at the end replace their system calls,
//         so that none reaches the machine.
// Rule 2: the same tape always has the same effect. No clock, real descriptor or other process matters.
// Rule 3: what a real kernel would allow but a guest must not do (a buffer shorter than announced, a
//         descriptor closed twice or never) ends the program.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/sendfile.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

__attribute__((noreturn, format(printf, 1, 2))) static void wrong(const char *what, ...)
{
    va_list rest;
    va_start(rest, what);
    fputs("WRONG: ", stderr);
    vfprintf(stderr, what, rest);
    fputc('\n', stderr);
    va_end(rest);
    __sanitizer_print_stack_trace();
    abort();
}

// ----------------------------------------------------------------------------------- what there is

enum { HOST_FD = 3, PROC_FD = 8, CHILDREN_FD = 9, FIRST_FD = 10, FD_MAX = 30, PROCESS_MAX = 6, QUEUE_MAX = 320 * 1024 };
enum { READS_WITHOUT_POLL = 20000, FLOOD = 30000 };
enum { PIPE_ROOM = 64 * 1024, FRAME_MAX = 8 + 8 + 64 * 1024, KEPT_MAX = 1024 * 1024 };
enum what { SHUT, PLAIN, CHILDREN, SIGNALS, STDOUT, STDERR, LINES, SCRIPT, ZYGOTE, OTHER_END,
            STAT, OF_RUNNER, LIMITS, STATUS };

struct queue {
    unsigned char bytes[QUEUE_MAX];
    size_t start, end;
    bool closed; // Nobody is left to write into it.
    unsigned turn;
};

static struct {
    const uint8_t *tape;
    size_t left;
    uint64_t clock;
    size_t chop; // The most that one system call moves.
    struct {
        enum what what;
        unsigned turn;
    } fds[FD_MAX];
    struct {
        pid_t pid; // 0: a free place.
        bool dead;
        int status;
        unsigned script; // Of a fork of the zygote: the pipe that its variables come by; else 0.
        bool told;
    } processes[PROCESS_MAX];
    pid_t newest, handler;
    bool child_signal, host_gone, tmp_dirty;
    bool silent;     // The host sends nothing for as long as the guest waits.
    time_t patience; // How long that is, in seconds; 0: without an end.
    bool shown;   // The guest has read all that /proc shows.
    bool treated; // A call has set another limit for the runner.
    uint8_t stirred; // A call's signal to the runner: none, a pending one, one that stops it, one it acts on.
    bool ignores, blocks; // The runner: SIGIO, and SIGINT, since before it was ready.
    uint64_t result_max; // Bytes of a call's result that the guest sends on; 0: it was told none.
    unsigned faults, pipes, scripts;
    bool as_handler; // The guest's effective ids.
    bool dropped;    // A part of its bounding set.
    size_t unread; // Of what the runner was sent.
    const unsigned char *ask; // Where what it is sent begins.
    size_t asked;             // How much of its head came.
    char head[64];
    uint64_t nonce; // Of the last call that the host sent.
    bool raw;       // It sent something that is not its own frame, too.
    size_t fed;     // Bytes that were written for the guest to read.
    unsigned flooded, flood_left; // Streams into which a byte comes for each that is read; how often.
    unsigned reads; // Of streams, since the guest has last looked at all of them.
    int exit_status;
} world;

static struct queue answers; // Of the zygote.
static struct queue host, out_pipe, log_pipe, lines;

enum fault {
    NO_PROCESS = 1,
    NO_PROGRAM = 2,
    NO_FILE = 4,
    NO_ROOM = 8,
    NO_PIPE = 16,
    NO_SOCKET = 32,
    NO_DIRECTORY = 64,
    NO_ROOT = 128, // The directory lies out of the sandbox.
};

static jmp_buf the_end;

static bool fault(enum fault which)
{
    bool now = (world.faults & which) != 0;
    world.faults &= ~(unsigned)which;
    return now;
}

static int fails(int error)
{
    errno = error;
    return -1;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void put(struct queue *queue, const void *bytes, size_t n)
{
    if (queue->start == queue->end)
        queue->start = queue->end = 0;
    n = least(n, QUEUE_MAX - queue->end);
    if (bytes != NULL)
        memcpy(queue->bytes + queue->end, bytes, n);
    else
        memset(queue->bytes + queue->end, 'x', n);
    queue->end += n;
    if (queue != &host && queue != &answers)
        world.fed += n;
}

static size_t get(struct queue *queue, void *to, size_t most)
{
    size_t n = least(least(most, queue->end - queue->start), world.chop);
    memcpy(to, queue->bytes + queue->start, n);
    queue->start += n;
    return n;
}

// What a pipe or the runner's socket gives, and what whoever writes into it puts in its place at once.
static ssize_t get_flooded(struct queue *queue, void *to, size_t most)
{
    if (++world.reads > READS_WITHOUT_POLL)
        wrong("it reads without end and does not look at the clock");
    size_t n = get(queue, to, most);
    unsigned which = queue == &lines ? 1 : queue == &out_pipe ? 2 : 4;
    if ((world.flooded & which) != 0 && world.flood_left > 0 && !queue->closed) {
        world.flood_left--;
        put(queue, "\n", 1);
    }
    return (ssize_t)n;
}

static void start_queue(struct queue *queue)
{
    queue->start = queue->end = 0;
    queue->closed = false;
    queue->turn++;
}

static bool readable(const struct queue *queue)
{
    return queue->start < queue->end || queue->closed;
}

static int new_fd(enum what what, unsigned turn)
{
    for (int fd = FIRST_FD; fd < FD_MAX; fd++)
        if (world.fds[fd].what == SHUT) {
            world.fds[fd].what = what;
            world.fds[fd].turn = turn;
            return fd;
        }
    wrong("descriptors are used up");
}

static size_t open_fds(void)
{
    size_t n = 0;
    for (int fd = FIRST_FD; fd < FD_MAX; fd++)
        n += world.fds[fd].what != SHUT;
    return n;
}

static size_t opened(enum what what)
{
    size_t n = 0;
    for (int fd = FIRST_FD; fd < FD_MAX; fd++)
        n += world.fds[fd].what == what;
    return n;
}

static enum what what_is(int fd)
{
    if (fd < 0)
        return SHUT; // A question the kernel answers with EBADF.
    if (fd == CHILDREN_FD) // The guest opens it once and for all, so it outlives a tape.
        return CHILDREN;
    if (fd == PROC_FD)
        return PLAIN;
    if (fd >= FD_MAX || world.fds[fd].what == SHUT)
        wrong("descriptor %d is used and not open", fd);
    return world.fds[fd].what;
}

static struct queue *queue_of(int fd)
{
    enum what what = what_is(fd);
    return what == STDOUT ? &out_pipe : what == STDERR ? &log_pipe : what == LINES ? &lines : NULL;
}

// -------------------------------------------------------------- what the guest tells, as a host sees

static unsigned char partial[FRAME_MAX];

static struct {
    size_t used; // Of partial.
    bool hello, specialised, ended, clean;
    uint64_t nonce, calls;  // Of the call in hand; how many were finished.
    uint64_t sent[3], told; // Of this call; told: of all calls, sent and dropped.
} heard;

static uint64_t number(const unsigned char *at, int bytes)
{
    uint64_t value = 0;
    while (bytes-- > 0)
        value = value << 8 | at[bytes];
    return value;
}

// The first frame of a call opens it.
static void judge_nonce(uint64_t nonce)
{
    bool known = world.raw || (nonce == heard.calls + 1 && nonce <= world.nonce);
    if (!known || (!heard.clean && nonce != heard.nonce))
        wrong("a frame of call %llu", (unsigned long long)nonce);
    if (heard.clean)
        heard.clean = heard.ended = false, heard.sent[0] = heard.sent[1] = heard.sent[2] = 0;
    heard.nonce = nonce;
}

static void judge_output(char kind, size_t length)
{
    if (length < 9 || length > 8 + 64 * 1024)
        wrong("%zu bytes in a frame of output", length);
    heard.sent[kind == 'E' ? 1 : kind == 'T' ? 2 : 0] += length - 8;
    uint64_t out = heard.sent[0] + (world.result_max == 0 ? heard.sent[2] : 0);
    if (heard.ended || out > KEPT_MAX || heard.sent[1] > KEPT_MAX ||
        (world.result_max != 0 && heard.sent[2] > world.result_max))
        wrong("output after the end, or more than is kept");
}

static void judge_end(const unsigned char *at, size_t length)
{
    uint64_t how = number(at + 8, 4), code = number(at + 12, 4);
    if (length < 40 || length > 40 + 1024 || heard.ended)
        wrong("an end of %zu bytes, or a second one", length);
    if (how > 3 || code > 255 || (how == 3) != (length > 40))
        wrong("an end of kind %d with code %d", (int)how, (int)code);
    if (world.result_max == 0 && number(at + 32, 8) != 0)
        wrong("a result without a limit of its own has bytes beyond it");
    for (int i = 0; i < 3; i++)
        heard.told += heard.sent[i] + number(at + 16 + 8 * i, 8);
    if (heard.told > world.fed)
        wrong("more output is told of than was written");
    heard.ended = true;
}

static bool will_hear(void); // Of a runner that stays.
static bool has_line_left(void); // The guest, of what its runner has said.
static void judge_forks(void); // That none of a call is left.
static bool serves_by_itself(void); // Whether the guest has a server and no calls.

static void judge(const unsigned char *at, size_t length)
{
    uint64_t kind = number(at, 4);
    at += 8;
    if (kind == 'H') {
        if (length != 4 || heard.hello)
            wrong("a greeting of %zu bytes, or a second one", length);
        heard.hello = true;
    } else if (kind == 'P') {
        if (length < 4 || length > 4 + 1024 + 1 + 4096 || heard.specialised || !heard.hello)
            wrong("it is specialised with %zu bytes, or twice", length);
        heard.specialised = heard.clean = true;
    } else if (kind == 'D' || (kind == 'X' && serves_by_itself())) {
        if (!heard.specialised || heard.ended || !serves_by_itself())
            wrong("a frame %c that is not of a server", (char)kind);
        if (kind == 'D' ? length != 4 : number(at, 8) != 0)
            wrong("a frame %c of %zu bytes, or of a call", (char)kind, length);
        // The socket that goes with it, and the two that the guest opens at its start.
        if (open_fds() > 3)
            wrong("%zu descriptors are left open by a server", open_fds());
        if (kind == 'X')
            judge_end(at, length);
    } else if (kind == 'O' || kind == 'E' || kind == 'T' || kind == 'X' || kind == 'Z') {
        if (!heard.specialised || length < 8)
            wrong("a frame %c of %zu bytes, or of no call", (char)kind, length);
        judge_nonce(number(at, 8));
        if (kind == 'X')
            judge_end(at, length);
        else if (kind != 'Z')
            judge_output((char)kind, length);
        else if (length != 8 || !heard.ended)
            wrong("clean before the end");
        // A runner's three, one of one that stays, two more of one that forks, the two that the guest
        // opens at its start, and the zygote's.
        else if (opened(ZYGOTE) > 1 || opened(OF_RUNNER) > 1 || opened(LIMITS) > 1 ||
                 opened(STATUS) > 1 ||
                 open_fds() > 5 + opened(ZYGOTE) + opened(OF_RUNNER) + opened(LIMITS) + opened(STATUS))
            wrong("%zu descriptors are left open by a call", open_fds());
        else if (opened(STATUS) == 1 && !will_hear())
            wrong("it is clean, and its runner will not hear the next call");
        else if (opened(STATUS) == 1 && has_line_left())
            wrong("it is clean, and its runner has said more than its answer");
        else
            judge_forks();
        if (kind == 'Z')
            heard.clean = true, heard.calls++;
    } else {
        wrong("a frame of kind %llx", (unsigned long long)kind);
    }
}

static void hear(const unsigned char *bytes, size_t n)
{
    while (n > 0) {
        size_t whole = heard.used < 8 ? 8 : 8 + (size_t)number(partial + 4, 4);
        if (whole > FRAME_MAX)
            wrong("a frame of %zu bytes is announced", whole);
        size_t some = least(n, whole - heard.used);
        memcpy(partial + heard.used, bytes, some);
        heard.used += some;
        bytes += some;
        n -= some;
        if (heard.used >= 8 && heard.used == 8 + number(partial + 4, 4)) {
            judge(partial, heard.used - 8);
            heard.used = 0;
        }
    }
}

// ---------------------------------------------------------------------------------------- processes

static int place_of(pid_t pid)
{
    for (int i = 0; i < PROCESS_MAX; i++)
        if (world.processes[i].pid != 0 && (pid < 0 || world.processes[i].pid == pid))
            return i;
    return -1;
}

// No signal is pending at a runner that blocks none and ignores what the kernel sends late.
static int signalled(void)
{
    int how = world.stirred % 4;
    return how == 1 && world.ignores && !world.blocks ? 0 : how;
}

static bool will_hear(void)
{
    int place = place_of(world.handler), how = signalled();
    return place >= 0 && !world.processes[place].dead &&
           (how == 0 || (how == 1 && opened(LIMITS) == 0));
}

static pid_t new_process(void)
{
    for (int i = 0; i < PROCESS_MAX; i++)
        if (world.processes[i].pid == 0) {
            world.processes[i].pid = ++world.newest;
            world.processes[i].dead = world.processes[i].told = false;
            world.processes[i].script = 0;
            return world.newest;
        }
    return -1;
}

static void shut_zygote(pid_t ended); // If it was that.

static void end_process(int place, int status)
{
    if (place < 0 || world.processes[place].dead)
        return;
    world.processes[place].dead = true;
    world.processes[place].status = status;
    world.child_signal = true;
    shut_zygote(world.processes[place].pid);
    if (world.processes[place].pid == world.handler)
        out_pipe.closed = log_pipe.closed = lines.closed = true;
}

// --------------------------------------------------------------------------------------- the tape

static uint8_t next_byte(void)
{
    if (world.left == 0)
        return 0;
    world.left--;
    return *world.tape++;
}

static void put_from_tape(struct queue *queue)
{
    size_t n = next_byte(); // Not in one expression with what it changes.
    n = least(n, world.left);
    put(queue, world.tape, n);
    world.tape += n;
    world.left -= n;
}

static void put_number(struct queue *queue, uint64_t value, int bytes)
{
    for (; bytes > 0; bytes--, value >>= 8)
        put(queue, (const unsigned char[]){(unsigned char)value}, 1);
}

static void put_text(struct queue *queue, const char *text)
{
    put_number(queue, strlen(text), 4);
    put(queue, text, strlen(text));
}

#include "forks.h"

static void shut_zygote(pid_t ended)
{
    forks.shut = forks.shut || ended == forks.pid;
}

// The host's frames, as it makes them; bytes of the tape can be sent instead.
static void send_start(bool prepare)
{
    static const char *const places[] = {"/", "/app", "relative", "/proc/1"};
    uint8_t flags = next_byte(), place = next_byte();
    const char *cwd = places[place & 3], *variable = text_of_version(flags);
    if (prepare && (flags & 16) != 0) { // Of a shell.
        put_number(&host, 'R', 4);
        put_number(&host, 0, 4);
        return;
    }
    size_t argc = (flags & 8) != 0 ? 3 : 1;
    size_t body = 4 + (argc == 3 ? 4U + 7 + 4 + 2 + 4 + 6 : 4U + 7) + 4 + 4 + strlen(variable);
    if (!prepare && forks.version == NULL)
        forks.version = variable;
    put_number(&host, prepare ? 'R' : 'S', 4);
    put_number(&host, body + (prepare ? 0 : 4 + 4 + strlen(cwd)), 4);
    if (!prepare) {
        put_number(&host, flags & 31, 4);
        put_text(&host, cwd);
    }
    put_number(&host, argc, 4);
    put_text(&host, "/bin/sh");
    if (argc == 3) {
        put_text(&host, "-c");
        put_text(&host, "echo x");
    }
    put_number(&host, 1, 4);
    put_text(&host, variable);
}

static void send_call(void)
{
    static const uint32_t sizes[] = {0, 1, 300, 64 * 1024, 64 * 1024 + 1, 150 * 1024, 7, 1000};
    const char *texts[TEXTS_MAX];
    uint8_t flags = next_byte(), timeout = next_byte(), size = next_byte();
    size_t payload = (flags & 1) != 0 ? sizes[size & 7] : 0, env = 4;
    size_t count = texts_of_call(flags, size, texts);
    for (size_t i = 0; i < count; i++)
        env += 4 + strlen(texts[i]);
    put_number(&host, 'C', 4);
    put_number(&host, 20 + env + payload, 4);
    put_number(&host, ++world.nonce, 8);
    if (world.nonce < CALLS_MAX)
        forks.calls[world.nonce].flags = flags, forks.calls[world.nonce].size = size;
    put_number(&host, timeout * 16U, 4);
    put_number(&host, flags & 3, 4);
    put_number(&host, env, 4);
    put_number(&host, count, 4);
    for (size_t i = 0; i < count; i++)
        put_text(&host, texts[i]);
    put(&host, NULL, payload);
}

static void say_done(void)
{
    char line[80];
    uint8_t code = next_byte(), low = next_byte(), high = next_byte();
    const char *how = (high & 0x80) != 0 ? "killed" : "exited";
    unsigned bytes = low | (high & 0x7fU) << 8;
    // The largest that are allowed, and some that are not.
    if (bytes > 0x7f00)
        bytes = bytes - 0x7f80 + 64 * 1024;
    int n = snprintf(line, sizeof line, "done %llu %s %u %u\n", (unsigned long long)world.nonce,
                     how, code, bytes);
    put(&lines, line, (size_t)n);
}

static void put_text_line(const char *text)
{
    put(&lines, text, strlen(text));
}

static void say_ready(void)
{
    static const char *const texts[] = {"ready fork\n", "ready once\n", "ready keep why\n",
                                        "refused no such module\n"};
    put_text_line(texts[next_byte() & 3]);
}

static void close_something(void)
{
    uint8_t which = next_byte();
    out_pipe.closed = out_pipe.closed || (which & 1) != 0;
    log_pipe.closed = log_pipe.closed || (which & 2) != 0;
    lines.closed = lines.closed || (which & 4) != 0;
    world.host_gone = world.host_gone || (which & 8) != 0;
}

static void end_something(bool orphan)
{
    uint8_t status = next_byte();
    int how = (status & 0x80) != 0 ? 1 + (status & 0x1f) : status << 8;
    for (int i = 0; i < PROCESS_MAX; i++)
        if (world.processes[i].pid != 0 && (world.processes[i].pid == world.handler) != orphan) {
            end_process(i, how);
            return;
        }
}

static void fill_something(void)
{
    struct queue *const queues[] = {&lines, &out_pipe, &log_pipe, &out_pipe};
    uint8_t which = next_byte(), amount = next_byte();
    // What a pipe holds, and a little more than a chunk: both edges matter.
    put(queues[which & 3], NULL, (size_t)amount * ((which & 4) != 0 ? 1 : 1024));
}

static void set_signals(uint8_t how)
{
    if (opened(STATUS) == 0)
        world.ignores = (how & 1) != 0, world.blocks = (how & 2) != 0;
}

// False when the tape has ended. A set highest bit means that the next comes at the same moment.
static bool next_event(void)
{
    bool more = true;
    if (world.left == 0)
        return false;
    while (more && world.left > 0) {
        uint8_t op = next_byte();
        more = (op & 0x80) != 0;
        switch ((op & 0x1f) > 18 && (op & 0x1f) < 22 && !forks.wanted ? 0x1f : op & 0x1f) {
        case 0: put_from_tape(&host), world.raw = true; break;
        case 1: send_start(true); break;
        case 2: send_start(false); break;
        case 3: send_call(); break;
        case 4: put_from_tape(&lines); break;
        case 5: put_from_tape(&out_pipe); break;
        case 6: put_from_tape(&log_pipe); break;
        case 7: fill_something(); break;
        case 8: end_something(false); break;
        case 9: world.clock += UINT64_C(1000000) << (next_byte() & 15); break;
        case 10: world.unread = 0; break;
        case 11: close_something(); break;
        case 12: world.faults |= next_byte(); break;
        case 13: new_process(); break;
        case 14: end_something(true); break;
        case 15: world.tmp_dirty = true; break;
        case 16: say_done(); break;
        case 17: say_ready(); break;
        case 18: world.clock += UINT64_C(130) * 1000000000; break;
        case 19: end_zygote(next_byte()); break;
        case 20: answer_late(); break;
        case 21: put_from_tape(&answers); break;
        case 22: world.treated = !world.treated; break;
        case 23: world.stirred++; break;
        case 24: set_signals(next_byte()); break;
        case 25: put_text_line("result stdout\n"); break;
        case 27: world.silent = true; break;
        case 28: put_text_line("forks ahead\n"); break;
        case 26: world.flooded = next_byte(), world.flood_left = FLOOD; break;
        default: break;
        }
    }
    return true;
}

// ------------------------------------------------------------------------------- the guest's calls

static void check_room(const void *at, size_t n); // That the guest may be given so many bytes there.

__attribute__((noreturn)) static void fake_exit(int status)
{
    world.exit_status = status;
    longjmp(the_end, 1);
}

static int fake_clock(struct timespec *t)
{
    world.clock += 20000;
    t->tv_sec = (time_t)(world.clock / 1000000000);
    t->tv_nsec = (long)(world.clock % 1000000000);
    return 0;
}

static ssize_t fake_recv(int fd, void *to, size_t n, int flags)
{
    check_room(to, n);
    if (fd == HOST_FD) {
        world.silent = false;
        while ((flags & MSG_DONTWAIT) == 0 && host.start == host.end && !world.host_gone &&
               !(world.silent && world.patience > 0))
            world.host_gone = !next_event();
        if (host.start == host.end)
            return world.host_gone ? 0 : fails(EAGAIN);
        if ((flags & MSG_PEEK) != 0)
            return 1;
        return (ssize_t)get(&host, to, n);
    }
    if (what_is(fd) == SHUT)
        return fails(EBADF);
    if (what_is(fd) == ZYGOTE)
        return recv_answer(to, n, flags);
    if (what_is(fd) != LINES || (flags & MSG_DONTWAIT) == 0)
        wrong("it waits for descriptor %d, or takes it for a socket", fd);
    if (lines.turn != world.fds[fd].turn)
        return 0;
    if (lines.start == lines.end)
        return lines.closed ? 0 : fails(EAGAIN);
    return get_flooded(&lines, to, n);
}

static int fake_ioctl(int fd, unsigned long what, int *to)
{
    struct queue *queue = queue_of(fd);
    if (queue == NULL)
        return fails(ENOTTY);
    bool same = queue->turn == world.fds[fd].turn;
    *to = (int)(what == SIOCOUTQ ? world.unread : same ? queue->end - queue->start : 0);
    return 0;
}

static ssize_t to_runner(const unsigned char *bytes, size_t n)
{
    if (lines.closed)
        return fails(EPIPE);
    if (bytes == world.ask && memcmp(bytes, "call ", 5) == 0 &&
        (has_line_left() || lines.start < lines.end))
        wrong("a runner is told of a call after it has written");
    n = least(least(n, world.chop), PIPE_ROOM - world.unread);
    if (n == 0)
        return fails(EAGAIN);
    world.unread += n;
    if (bytes == world.ask)
        world.asked = 0;
    for (; bytes != NULL && n > 0 && world.asked < sizeof world.head; n--, bytes++) {
        world.head[world.asked++] = (char)*bytes;
        if (world.asked < sizeof world.head)
            continue;
        bool known = memcmp(world.head, "call ", 5) == 0 || memcmp(world.head, "load ", 5) == 0;
        if (!known || world.head[63] != '\n' || memchr(world.head, '\n', 63) != NULL ||
            memchr(world.head, 0, 63) != NULL)
            wrong("a call's head is not one line of 64 bytes");
    }
    return 0;
}

static ssize_t fake_send(int fd, const void *bytes, size_t n, int flags)
{
    check_room(bytes, n);
    if ((flags & MSG_NOSIGNAL) == 0)
        wrong("a signal would end the guest");
    if (fd == HOST_FD) {
        if (world.host_gone)
            return fails(EPIPE);
        n = least(n, world.chop);
        hear(bytes, n);
        return (ssize_t)n;
    }
    if (what_is(fd) != LINES || (flags & MSG_DONTWAIT) == 0)
        return what_is(fd) == SHUT ? fails(EBADF) : (wrong("it waits for its runner"), -1);
    size_t before = world.unread;
    ssize_t result = to_runner(bytes, n);
    return result < 0 ? result : (ssize_t)(world.unread - before);
}

static ssize_t fake_sendfile(int fd, int file, off_t *from, size_t n)
{
    if (what_is(file) != PLAIN)
        return fails(EBADF);
    if (what_is(fd) != LINES)
        return fails(EBADF);
    size_t before = world.unread;
    if (to_runner(NULL, n) < 0)
        return -1;
    *from += (off_t)(world.unread - before);
    return (ssize_t)(world.unread - before);
}

static ssize_t read_stat(pid_t pid, char *to, size_t n)
{
    int place = place_of(pid);
    if (place < 0)
        return fails(ESRCH);
    return snprintf(to, n, "%d (a) Z 1) %c 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 0\n", (int)pid,
                    world.processes[place].dead ? 'Z' : 'R');
}

// A signal that the runner acts on wakes it; then it sleeps again.
static ssize_t read_status(pid_t pid, char *to, size_t n)
{
    int place = place_of(pid);
    if (place < 0)
        return fails(ESRCH);
    int how = signalled();
    char state = world.processes[place].dead ? 'Z' : how == 2 ? 'T' : how == 3 ? 'R' : 'S';
    if (how == 3)
        world.stirred++;
    if (state != 'S' || how == 1)
        world.fed += 100; // What the guest says of it itself.
    return snprintf(to, n,
                    "Name:\ta\nState:\t%c (a)\nSigPnd:\t%016x\nShdPnd:\t0\nSigBlk:\t%016x\n"
                    "SigIgn:\t%016x\n",
                    state, how == 1 ? 2U : 0U, how == 1 || world.blocks ? 2U : 0U,
                    world.ignores ? 1U << (SIGIO - 1) : 0U);
}

static ssize_t fake_read(int fd, void *to, size_t n)
{
    check_room(to, n);
    if (what_is(fd) == SIGNALS) {
        world.child_signal = false;
        return fails(EAGAIN);
    }
    if (what_is(fd) == STAT)
        return read_stat((pid_t)world.fds[fd].turn, to, n);
    if (what_is(fd) == STATUS)
        return read_status((pid_t)world.fds[fd].turn, to, n);
    struct queue *queue = queue_of(fd);
    if (queue == NULL || queue == &lines)
        wrong("descriptor %d is no pipe", fd);
    if (queue->turn != world.fds[fd].turn)
        return 0;
    if (queue->start == queue->end)
        return queue->closed ? 0 : fails(EAGAIN);
    return get_flooded(queue, to, n);
}

static ssize_t fake_write(int fd, const void *bytes, size_t n)
{
    check_room(bytes, n);
    enum what what = what_is(fd);
    if (what == SCRIPT && n > PIPE_ROOM)
        wrong("it would wait for a shell to read %zu bytes", n);
    if (what != SCRIPT && what != PLAIN)
        wrong("descriptor %d is not to be written to", fd);
    int fork = what == SCRIPT ? place_of_fork(world.fds[fd].turn) : -1;
    if (fork >= 0)
        tell_fork(fork, bytes, n);
    if (what == SCRIPT && (out_pipe.closed || (fork >= 0 && world.processes[fork].dead)))
        return fails(EPIPE);
    if (what == PLAIN && fault(NO_ROOM))
        return fails(ENOSPC);
    return (ssize_t)(what == PLAIN ? least(n, world.chop) : n);
}

static ssize_t fake_pread(int fd, void *to, size_t n)
{
    check_room(to, n);
    enum what what = what_is(fd);
    if (what == OF_RUNNER)
        return 0;
    if (what == STATUS)
        return read_status((pid_t)world.fds[fd].turn, to, n);
    if (what != CHILDREN) {
        memcpy(to, what == LIMITS && world.treated ? "-901" : "-900", 4);
        return 4;
    }
    size_t used = 0;
    for (int i = 0; i < PROCESS_MAX; i++)
        if (world.processes[i].pid != 0)
            used += (size_t)snprintf((char *)to + used, n - used, "%d ", world.processes[i].pid);
    return (ssize_t)used;
}

static int fake_close(int fd)
{
    if (what_is(fd) == SHUT || fd == CHILDREN_FD || fd == PROC_FD)
        wrong("descriptor %d is closed", fd);
    if (what_is(fd) == ZYGOTE && !forks.shut && place_of(forks.pid) >= 0)
        wrong("a zygote is left to itself");
    // A fork that is told nothing ends.
    int fork = what_is(fd) == SCRIPT ? place_of_fork(world.fds[fd].turn) : -1;
    if (fork >= 0 && !world.processes[fork].told)
        end_process(fork, 126 << 8);
    world.fds[fd].what = SHUT;
    return 0;
}

static int fake_open(const char *path)
{
    int pid, end = 0;
    world.pipes = 0;
    if (strcmp(path, "/proc/thread-self/children") == 0)
        return CHILDREN_FD;
    if (strcmp(path, "/proc") == 0)
        return PROC_FD;
    if (sscanf(path, "/proc/%d/%n", &pid, &end) != 1 || end == 0)
        return new_fd(PLAIN, 0);
    if (place_of(pid) < 0)
        return fails(ENOENT);
    if (strcmp(path + end, "stat") == 0)
        return new_fd(STAT, (unsigned)pid);
    if (strcmp(path + end, "status") == 0)
        return new_fd(STATUS, (unsigned)pid);
    return new_fd(strcmp(path + end, "limits") == 0 ? LIMITS : OF_RUNNER, 0);
}

// What /proc shows, all at once: us, and everybody who was not reaped.
static long list_processes(int fd, char *to, size_t n)
{
    size_t used = 0;
    char *last = NULL;
    check_room(to, n);
    if (fd != PROC_FD)
        wrong("descriptor %d is listed", fd);
    for (int i = -2; !world.shown && i < PROCESS_MAX; i++) {
        char name[16] = "self";
        if (i >= 0 && world.processes[i].pid == 0)
            continue;
        if (i > -2)
            snprintf(name, sizeof name, "%d", i < 0 ? 1 : world.processes[i].pid);
        struct dirent64 one = {.d_reclen = 40};
        memcpy(one.d_name, name, sizeof name);
        if (n - used < one.d_reclen)
            wrong("%zu bytes for a list", n);
        memcpy(to + used, &one, one.d_reclen);
        last = to + used;
        used += one.d_reclen;
    }
    // In pieces, the end is told by a list of nobody.
    if (last != NULL && world.chop == SIZE_MAX)
        memcpy(last + offsetof(struct dirent64, d_off), &(off64_t){4194562}, sizeof(off64_t));
    world.shown = true;
    return (long)used;
}

static long fake_lseek(int fd)
{
    world.shown = world.shown && fd != PROC_FD;
    return 0;
}

static int fake_memfd(void)
{
    world.pipes = 0;
    return fault(NO_FILE) ? fails(EMFILE) : new_fd(PLAIN, 0);
}

// Behind a standard input the guest makes standard output, standard error, and perhaps a script's.
static int fake_pipe(int pair[2])
{
    struct queue *queue = world.pipes == 0 ? &out_pipe : &log_pipe;
    if (fault(NO_PIPE))
        return fails(EMFILE);
    if (world.pipes++ == 2) {
        pair[0] = new_fd(OTHER_END, ++world.scripts);
        pair[1] = new_fd(SCRIPT, world.scripts);
        return 0;
    }
    start_queue(queue);
    pair[0] = new_fd(queue == &out_pipe ? STDOUT : STDERR, queue->turn);
    pair[1] = new_fd(OTHER_END, 0);
    return 0;
}

static int fake_socket(int kind)
{
    if ((kind & SOCK_CLOEXEC) == 0)
        wrong("a socket that processes would inherit");
    return fault(NO_PIPE) ? fails(EMFILE) : new_fd(PLAIN, 0);
}

static bool has_program(void); // Whether the guest was sent one.

static int fake_socketpair(int pair[2])
{
    if (fault(NO_SOCKET))
        return fails(EMFILE);
    if (world.pipes > 2 || !has_program()) // Behind a script's pipe, or prepared.
        return zygote_socket(pair);
    start_queue(&lines);
    world.unread = 0;
    pair[0] = new_fd(LINES, lines.turn);
    pair[1] = new_fd(OTHER_END, 0);
    return 0;
}

static int fake_poll(struct pollfd *polled, size_t n, const struct timespec *timeout)
{
    world.reads = 0;
    for (;;) {
        int ready = 0;
        for (size_t i = 0; i < n; i++) {
            int fd = polled[i].fd;
            bool now = false;
            polled[i].revents = 0;
            if (fd == HOST_FD)
                now = host.start < host.end || world.host_gone;
            else if (fd >= 0 && what_is(fd) == SIGNALS)
                now = world.child_signal;
            else if (fd >= 0)
                now = readable(queue_of(fd)) || queue_of(fd)->turn != world.fds[fd].turn;
            if (now)
                polled[i].revents = POLLIN;
            if (fd >= 0 && (polled[i].events & POLLOUT) != 0 && world.unread < PIPE_ROOM)
                polled[i].revents |= POLLOUT;
            ready += polled[i].revents != 0;
        }
        if (ready > 0 || (timeout != NULL && timeout->tv_sec == 0 && timeout->tv_nsec == 0))
            return ready;
        uint64_t before = world.clock;
        if (!next_event())
            world.host_gone = true;
        if (world.clock != before)
            return 0;
    }
}

static pid_t fake_vfork(int who, char **argv, char **env);

static pid_t fake_waitpid(pid_t pid, int *status, int options)
{
    bool some = false;
    for (int i = 0; i < PROCESS_MAX; i++) {
        if (world.processes[i].pid == 0 || (pid > 0 && world.processes[i].pid != pid))
            continue;
        some = true;
        if (!world.processes[i].dead)
            continue;
        pid_t found = world.processes[i].pid;
        world.processes[i].pid = 0;
        if (status != NULL)
            *status = world.processes[i].status;
        return found;
    }
    if (some && (options & WNOHANG) == 0)
        wrong("it waits for a process that has not been killed");
    return some ? 0 : fails(ECHILD);
}

// A runner has acted on such a signal before it said that the call is done.
static int fake_waitid(int kind, pid_t pid, siginfo_t *to, int options)
{
    int place = place_of(pid), how = signalled();
    if (kind != P_PID || (options & (WNOHANG | WNOWAIT)) != (WNOHANG | WNOWAIT))
        wrong("it waits, or reaps, where it only looks");
    if (place < 0)
        return fails(ECHILD);
    if (how == 3)
        world.stirred++;
    bool dead = world.processes[place].dead;
    if (dead ? (options & WEXITED) != 0 : (options & WSTOPPED) != 0 && how == 2) {
        to->si_pid = pid;
        world.fed += 100; // What the guest says of it itself.
    }
    return 0;
}

static int fake_kill(pid_t pid, int signal)
{
    int found = 0;
    if (pid == 0 || pid < -1)
        wrong("a signal to group %d", pid);
    for (int i = 0; i < PROCESS_MAX; i++) {
        if (world.processes[i].pid == 0 || (pid > 0 && world.processes[i].pid != pid))
            continue;
        found++;
        if (signal == SIGKILL)
            end_process(i, SIGKILL);
    }
    return found > 0 ? 0 : fails(ESRCH);
}

static int fake_statfs(struct statfs *to)
{
    memset(to, 0, sizeof *to);
    to->f_files = 100;
    to->f_ffree = world.tmp_dirty ? 90 : 99;
    return 0;
}

static int fake_mount(void)
{
    world.tmp_dirty = false;
    return 0;
}

static void fake_capabilities(bool are_set, const struct __user_cap_header_struct *version,
                              struct __user_cap_data_struct *sets)
{
    uint32_t both = 1U << CAP_SETUID | 1U << CAP_SETGID;
    if (version->version != _LINUX_CAPABILITY_VERSION_3 || !forks.wanted || world.dropped)
        wrong("capabilities are changed");
    for (int i = 0; i < 2; i++) {
        struct __user_cap_data_struct had = {UINT32_MAX, UINT32_MAX, 0};
        if (!are_set)
            sets[i] = had;
        had.inheritable = i == 0 ? both : 0;
        if (are_set && memcmp(&sets[i], &had, sizeof had) != 0)
            wrong("other capabilities are let be inherited");
    }
}

static long fake_syscall(long number_of_call, ...)
{
    long result = 0;
    va_list rest;
    va_start(rest, number_of_call);
    if (number_of_call == SYS_getcwd) {
        char *to = va_arg(rest, char *);
        size_t n = va_arg(rest, size_t);
        check_room(to, n);
        snprintf(to, n, "%s", fault(NO_ROOT) ? "(unreachable)/app" : "/app");
    } else if (number_of_call == SYS_setresuid) {
        (void)va_arg(rest, int);
        world.as_handler = va_arg(rest, int) != 0;
    } else if (number_of_call == SYS_capget || number_of_call == SYS_capset) {
        const struct __user_cap_header_struct *version = va_arg(rest, void *);
        fake_capabilities(number_of_call == SYS_capset, version, va_arg(rest, void *));
    } else if (number_of_call == SYS_getdents64) {
        int fd = va_arg(rest, int);
        char *to = va_arg(rest, char *);
        result = list_processes(fd, to, va_arg(rest, size_t));
    }
    va_end(rest);
    return result;
}

static int fake_chdir(const char *path)
{
    return strcmp(path, "/") != 0 && fault(NO_DIRECTORY) ? fails(ENOENT) : 0;
}

// 40 capabilities, all of them held.
static int fake_prctl(int what, unsigned long which)
{
    if (what == PR_CAPBSET_READ)
        return which > 40 ? fails(EINVAL) : 1;
    world.dropped = world.dropped || what == PR_CAPBSET_DROP;
    return 0;
}

static int nothing(void)
{
    return 0;
}

static int no_objects(int id, ...)
{
    (void)id;
    return 0;
}

#define _exit(status) fake_exit(status)
#define clock_gettime(which, t) fake_clock(t)
#define recv(fd, to, n, flags) fake_recv(fd, to, n, flags)
#define send(fd, from, n, flags) fake_send(fd, from, n, flags)
#define sendfile(fd, file, from, n) fake_sendfile(fd, file, from, n)
#define read(fd, to, n) fake_read(fd, to, n)
#define write(fd, from, n) fake_write(fd, from, n)
#define pread(fd, to, n, at) fake_pread(fd, to, n)
#define pwrite(fd, from, n, at) ((ssize_t)(n))
#define lseek(fd, at, how) fake_lseek(fd)
#define close(fd) fake_close(fd)
#define open(path, flags) fake_open(path)
#define memfd_create(name, flags) fake_memfd()
#define pipe2(pair, flags) fake_pipe(pair)
#define socket(family, kind, protocol) fake_socket(kind)
#define socketpair(family, kind, protocol, pair) fake_socketpair(pair)
#define ppoll(polled, n, timeout, mask) fake_poll(polled, n, timeout)
#define ioctl(fd, what, to) fake_ioctl(fd, what, to)
#define fcntl(...) nothing()
#define sendmsg(fd, message, flags) fake_sendmsg(fd, message, flags)
#define setsockopt(fd, level, what, to, n) fake_setsockopt(fd, what, to)
#define vfork() fake_vfork((int)(who), argv, env) // What `start` was given.
#define waitpid(pid, status, options) fake_waitpid(pid, status, options)
#define waitid(kind, pid, to, options) fake_waitid((int)(kind), (pid_t)(pid), to, options)
#define kill(pid, signal) fake_kill(pid, signal)
#define getpid() 1
#define nanosleep(...) (world.clock += 1000000, nothing())
#define statfs(path, to) fake_statfs(to)
#define umount2(path, flags) nothing()
#define mount(from, to, kind, flags, options) ((void)(flags), fake_mount())
#define shmctl(...) no_objects(__VA_ARGS__)
#define semctl(...) no_objects(__VA_ARGS__)
#define msgctl(...) no_objects(__VA_ARGS__)
#define syscall(...) fake_syscall(__VA_ARGS__)
#define chdir(path) fake_chdir(path)
#define prctl(what, which, ...) fake_prctl(what, which)
#define signal(number, action) nothing()
#define sigprocmask(how, set, old) nothing()
#define signalfd(fd, set, flags) new_fd(SIGNALS, 0)
#define setgroups(n, list) nothing()
#define setrlimit(which, to) ((void)(to), nothing())
#define umask(mask) nothing()
#define setsid() nothing()
#define dup2(from, to) ((void)(from), (void)(to), nothing())
#define execve(path, argv, env) ((void)(env), fails(ENOEXEC))
