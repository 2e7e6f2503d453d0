// SPDX-License-Identifier: Apache-2.0
//
// The guest: process 1 of every sandbox.
//
// It reads frames from the host on descriptor 3, runs one handler at a time as another user,
// streams what it writes, reports how it ended, kills whatever is left, cleans, and says so.
// docs/reference/guest-protocol.md describes the frames.
//
// Rule 1: it never waits for a handler without a deadline, and never trusts one with a choice.
// Rule 2: what it cannot prove it does not survive: on a broken frame or an unfinished clean-up it
//         exits, the kernel then kills the whole PID namespace, and the host makes a new sandbox.
// Rule 3: nothing grows from call to call. Every buffer is static and has a limit; there is no
//         heap, so that a handler that ate all memory cannot take from the guest what it needs.
// Rule 4: its own umask, directory, signal mask and ids are the same before and after every call.
//
// Read it from the bottom: main, serve_call, watch, then the tools above them. frames.h has the
// bytes that come and go, runner.h what concerns a program that stays between calls.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sockios.h>
#include <poll.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
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

// ------------------------------------------------------------------------------------ numbers

enum { PROTOCOL_VERSION = 2, CONTROL = 3, HANDLER_ID = 1000, PENDING_SIGNALS = 128 };

enum {
    HEADER = 8,
    NONCE = 8,
    END_HEAD = 40,                       // nonce, how, code, and what was dropped of three streams
    CALL_HEAD = 20,                      // nonce, timeout, flags, env_bytes
    SPECIALISE_MAX = 256 * 1024,         // payload of a SPECIALISE frame
    ENV_MAX = 256 * 1024,                // environment of a CALL frame
    CALL_MAX = 8 * 1024 * 1024 + 256 * 1024,
    STRINGS_MAX = 16 * 1024,             // arguments, and variables, of one frame
    CHUNK_MAX = 64 * 1024,               // bytes of output in one frame: what a pipe holds
    TEXT_MAX = 512,                      // a sentence in a frame
};

static const uint32_t KEEP_TMP = 1, RESIDENT = 2, KEEP_STATE = 4; // of SPECIALISE,
static const uint32_t SHELL = 8, FRESH = 16;                      // too
static const uint32_t HAS_PAYLOAD = 1, ENV_REPLACES = 2; // of CALL
enum how { EXITED = 0, KILLED = 1, DEADLINE = 2, NOT_STARTED = 3 };

// The guest's own exit status: all that is ever heard of it when it gives up.
enum { GONE = 0, BAD_START = 1, BAD_FRAME = 2, NOT_CLEAN = 3, BROKEN = 4 };

// Output waits this long for more of it or for the end, so that a short handler costs the host one
// wake-up instead of two. A person who follows the output does not notice two milliseconds.
#define LINGER_NS UINT64_C(2000000)

#define MS_NS UINT64_C(1000000)
#define SECOND_NS UINT64_C(1000000000)

// Younger than the headers of some distributions we build on; the numbers are the kernel's ABI.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15
#endif
#ifndef SEM_STAT_ANY
#define SEM_STAT_ANY 20
#endif
#ifndef MSG_STAT_ANY
#define MSG_STAT_ANY 13
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static uint32_t get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const unsigned char *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void put32(unsigned char *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

static void put64(unsigned char *p, uint64_t value)
{
    put32(p, (uint32_t)value);
    put32(p + 4, (uint32_t)(value >> 32));
}

static uint64_t now_ns(void)
{
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
        _exit(BROKEN);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

#include "frames.h"

// ------------------------------------------------------------------------------ who the guest is

// Under gVisor's kernel, which pays for pending signals itself and lets nobody change their limit.
static bool in_gvisor;

// What a handler must be able to open again by name (/dev/stdout is /proc/self/fd/1) has to be
// made by its own ids. Effective ids rather than setfsuid: setfsuid cannot say that it failed, and
// not every kernel we run on has it. The real and saved ids stay 0, so no handler may signal us,
// and going back to 0 gives the capabilities back.
static void act_as_handler(void)
{
    if (syscall(SYS_setresgid, -1, HANDLER_ID, -1) != 0 ||
        syscall(SYS_setresuid, -1, HANDLER_ID, -1) != 0)
        _exit(BROKEN);
}

static void act_as_guest(void)
{
    if (syscall(SYS_setresuid, -1, 0, -1) != 0 || syscall(SYS_setresgid, -1, 0, -1) != 0)
        _exit(BROKEN);
}

// A handler's bounding set is what pid 1 had, so pid 1 empties its own. That takes nothing from the
// guest, whose permitted set stays. SETPCAP goes last because dropping needs it. A bit that is
// already absent is fine; a bit that stays is not.
static void drop_bounding_set(void)
{
    int held;
    unsigned long cap = 0;
    while ((held = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) >= 0) {
        if (held > 0 && cap != CAP_SETPCAP && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0)
            _exit(BAD_START);
        cap++;
    }
    if (errno != EINVAL || cap <= CAP_SETPCAP) // EINVAL: beyond the kernel's last capability.
        _exit(BAD_START);
    held = prctl(PR_CAPBSET_READ, CAP_SETPCAP, 0, 0, 0);
    if (held != 0 && prctl(PR_CAPBSET_DROP, CAP_SETPCAP, 0, 0, 0) != 0)
        _exit(BAD_START);
}

// What the zygote needs to give its forks a handler's ids. It has to be made inheritable while the
// bounding set still has it; every handler's start takes it away again.
static void let_zygote_inherit(void)
{
    struct __user_cap_header_struct version = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &version, sets) != 0)
        _exit(BAD_START);
    sets[0].inheritable |= 1U << CAP_SETUID | 1U << CAP_SETGID;
    if (syscall(SYS_capset, &version, sets) != 0)
        _exit(BAD_START);
}

// ------------------------------------------------------------------------- the working directory

static bool lies_in(const char *path, const char *tree)
{
    size_t n = strlen(tree);
    return strncmp(path, tree, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool forbidden(const char *path)
{
    return lies_in(path, "/proc") || lies_in(path, "/sys") || lies_in(path, "/dev");
}

// Proves the working directory by entering it as the handler will. From then on the directory's
// real name is used: symbolic links are followed once, here, and cannot lead elsewhere later. A
// directory outside the sandbox's root shows as "(unreachable)/...", hence the check for '/'.
static int prove_cwd(const char **why)
{
    static char real[PATH_MAX];
    *why = "could not be entered in the sandbox";
    if (special.cwd[0] != '/') {
        *why = "is not an absolute path";
        return EINVAL;
    }
    if (forbidden(special.cwd)) {
        *why = "must not lie in /proc, /sys or /dev";
        return EINVAL;
    }
    act_as_handler();
    int error = chdir(special.cwd) != 0 ? errno : 0;
    if (error == 0 && syscall(SYS_getcwd, real, sizeof real) < 0)
        error = errno;
    if (chdir("/") != 0)
        _exit(BROKEN);
    act_as_guest();
    if (error == ENOENT)
        *why = "does not exist in the sandbox";
    if (error == ENOTDIR)
        *why = "is not a directory in the sandbox";
    if (error == EACCES)
        *why = "may not be entered by the handler";
    if (error == 0 && (real[0] != '/' || forbidden(real))) {
        *why = "leads out of the directories a handler may work in";
        error = EINVAL;
    }
    // The name the user wrote is still wanted for the sentence when something is wrong.
    if (error == 0)
        special.cwd = real;
    return error;
}

// ------------------------------------------------------------------------------ starting a handler

// The child of vfork tells here where it failed; the memory is shared until it execs.
static struct {
    const char *step;
    const char *name;
    int error;
} volatile failure;

static void could_not(const char *step, const char *name, int error)
{
    failure.step = step;
    failure.name = name;
    failure.error = error;
}

// Memory pressure shall take handlers, not pid 1. A process inherits the score of its parent, so pid
// 1 takes the handlers' for the moment of a start: opening the child's own file instead makes four
// objects under /proc for every call, and takes them apart again at its end. In that moment there is
// nobody else to take, since the kernel passes over the child of a vfork.
static const char *oom_score_adj;
static char own_oom_score[16];
static int oom_score_fd = -1;

static bool set_oom_score(const char *score)
{
    size_t length = strlen(score);
    return pwrite(oom_score_fd, score, length, 0) == (ssize_t)length;
}

// A process may lower its score to where that of its sandbox began, which would be ours. So handlers
// find a /proc that nothing can be written to, and we write by a mount of it that is gone again.
// Nothing under gVisor: scores are its own there, and the host never hears of them.
static bool prepare_oom_score(void)
{
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

// Whether the last look found that we have no child at all. Then nothing of a call is alive: every
// process of the namespace descends from us, and one whose parent ends becomes our child before that
// parent can be reaped.
static bool childless;

// Whether the call in hand had processes beside its handler.
static bool met_others;

// Runs in the child of vfork: it borrows the guest's memory until execve, so it only makes system
// calls. Nobody can use that loan: no other process of the handler's uid is alive, and the memory
// is not dumpable. Umask, signal actions and groups are already as the handler shall have them.
// It also gets the descriptor `more`, as number `as`, which is 3 or above. As GUEST it keeps our ids
// and what of our capabilities we let be inherited: that is for the zygote alone (zygote.h).
enum as { HANDLER, GUEST };

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
    // Raw calls: libc's versions are for threads, and must not run on borrowed memory.
    else if (who == HANDLER &&
             (syscall(SYS_setresgid, HANDLER_ID, HANDLER_ID, HANDLER_ID) != 0 ||
              syscall(SYS_setresuid, HANDLER_ID, HANDLER_ID, HANDLER_ID) != 0 ||
              syscall(SYS_capset, &version, no_capabilities) != 0))
        step = "take the handler's ids";
    // The three are above 3, for the guest keeps 0 to 3 occupied, so none overwrites another.
    else if (dup2(fds[0], 0) < 0 || dup2(fds[1], 1) < 0 || dup2(fds[2], 2) < 0)
        step = "connect the standard streams";
    else if (more >= 0 && (more == as ? fcntl(as, F_SETFD, 0) : dup2(more, as)) < 0)
        step = "connect its own descriptor";
    // Everything of ours is close-on-exec already; this is the second lock on the same door. INT_MAX,
    // which no descriptor is above: gVisor takes no more.
    else if ((more < 0 || as > 3) &&
             syscall(SYS_close_range, 3, more < 0 ? INT_MAX : as - 1, 0) != 0)
        step = "close its descriptors";
    else if (more >= 0 && syscall(SYS_close_range, as + 1, INT_MAX, 0) != 0)
        step = "close its descriptors";
    else if (who == HANDLER && chdir(special.cwd) != 0)
        step = "enter ", name = special.cwd;
    else if (execve(argv[0], argv, env) != 0)
        step = "execute ", name = argv[0];
    could_not(step, name, errno);
    _exit(127);
}

__attribute__((noinline)) static pid_t start(enum as who, const int fds[3], int more, int as,
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

// Where a call's bytes come from, and the frames that they go into: 'O' and 'E' are its standard
// output and error, 'T' is the result that a runner tells.
struct stream {
    int fd;
    unsigned char kind;
    bool ended;
    uint64_t sent, dropped;
};

// Bytes of standard output, of standard error and of the result that are sent on; the rest of each is
// counted. A host that names no limit for results has them counted as standard output.
static uint32_t stdout_max = 6 * 1024 * 1024, stderr_max = 1024 * 1024, result_max;
static bool result_has_limit;

static bool set_output_max(const char *numbers)
{
    int found = sscanf(numbers, "%" SCNu32 ",%" SCNu32 ",%" SCNu32, &stdout_max, &stderr_max,
                       &result_max);
    result_has_limit = found == 3;
    return found >= 2;
}

// How many bytes of a stream may still be sent on.
static size_t room_of(const struct stream *stream)
{
    uint64_t most = stream->kind == 'E'                       ? stderr_max
                    : stream->kind == 'T' && result_has_limit ? result_max
                                                              : stdout_max;
    return stream->sent < most ? (size_t)(most - stream->sent) : 0;
}

// Not executable where the kernel can promise that; kernels before 6.3 do not know the flag.
static int payload_file(void)
{
    int fd = memfd_create("payload", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("payload", MFD_CLOEXEC);
    return fd;
}

// Everything is new for each call, /dev/null too: flags and owners of an open file would otherwise
// be a channel from one call to the next. Only our ends of the pipes do not block: the flag belongs
// to an end, and the handler's shall be ordinary. Called as the handler, whose they shall be.
static bool open_streams(bool has_payload, int fds[3], struct stream streams[2])
{
    int pair[2];
    fds[0] = has_payload ? payload_file() : open("/dev/null", O_RDONLY | O_CLOEXEC);
    bool fine = fds[0] >= 0;
    for (int i = 0; i < 2 && fine; i++) {
        fine = pipe2(pair, O_CLOEXEC) == 0;
        if (!fine)
            break;
        streams[i].fd = pair[0];
        fds[i + 1] = pair[1];
        fine = fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0;
    }
    if (!fine)
        could_not("make the standard streams", "", errno);
    return fine;
}

static void close_if_open(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

// Our copies of a handler's ends; it has its own once it was started.
static void close_all(int fds[3])
{
    for (int i = 0; i < 3; i++)
        close_if_open(&fds[i]);
}

enum { FORK_FDS = 4 }; // The most descriptors that go with a message: streams and variables.

// Sends bytes, and with the first of them descriptors.
static ssize_t send_with(int to, struct iovec *bytes, const int *fds, size_t count, int flags)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(FORK_FDS * sizeof(int))];
    } rights;
    memset(&rights, 0, sizeof rights);
    struct msghdr message = {.msg_iov = bytes, .msg_iovlen = 1, .msg_control = rights.bytes,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(head), fds, count * sizeof(int));
    return sendmsg(to, &message, flags);
}

// The payload goes from the socket into the file as it comes. When it cannot be kept, the rest is
// still read, since the frame's end is where the next frame begins.
static bool take_payload(int fd, size_t length)
{
    bool fine = fd >= 0;
    while (length > 0) {
        unsigned char *at;
        size_t n = in_some(&at, length);
        length -= n;
        while (fine && n > 0) {
            ssize_t written = write(fd, at, n);
            if (written < 0 && errno == EINTR)
                continue;
            if (written <= 0) {
                could_not("keep the payload", "", written < 0 ? errno : ENOSPC);
                fine = false;
                break;
            }
            at += written;
            n -= (size_t)written;
        }
    }
    if (fine && lseek(fd, 0, SEEK_SET) != 0) {
        could_not("rewind the payload", "", errno);
        fine = false;
    }
    return fine;
}

// ------------------------------------------------------------------------------ watching a handler

// Moves at most one chunk. False when there was nothing to move.
static bool pump(struct stream *stream, uint64_t nonce)
{
    static unsigned char discarded[CHUNK_MAX];
    enum { FULL = HEADER + NONCE + CHUNK_MAX, PAGE = 4096 };
    unsigned char *to = discarded;
    size_t room = sizeof discarded, before = 0;
    size_t left = room_of(stream);
    bool keep = left > 0, opened = false;
    if (keep) {
        // Room for a page at least: of a pipe in packet mode, read cuts off what does not fit. A
        // runner's answer may have gone beyond FULL, so nothing is subtracted here.
        if (out.used + HEADER + NONCE + PAGE > FULL)
            out_send();
        if (out.used == 0)
            out.since = now_ns();
        before = out.used;
        opened = out.stream != stream->kind;
        if (opened) {
            put64(out_frame(stream->kind, NONCE), nonce);
            out.stream = stream->kind;
            out.open = before;
        }
        to = out.bytes + out.used;
        room = FULL - out.used;
        if (room > left)
            room = left;
    }
    ssize_t n;
    do
        n = read(stream->fd, to, room);
    while (n < 0 && errno == EINTR);
    if (n > 0 && keep) {
        out.used += (size_t)n;
        stream->sent += (uint64_t)n;
    } else if (n > 0) {
        stream->dropped += (uint64_t)n;
    } else {
        stream->ended = n == 0;
        if (opened) { // No frame without bytes.
            out.used = before;
            out.stream = 0;
        }
    }
    return n > 0;
}

#include "zygote.h"

// Reaps what has ended, orphans too. At most 256 at a time, so that a handler that forks without
// end cannot keep us from the clock; `more` then says that there may be more.
static bool reap(pid_t handler, int *status, bool *more)
{
    bool ended = false;
    for (int i = 0; i < 256; i++) {
        int one;
        pid_t pid = waitpid(-1, &one, WNOHANG | __WALL); // Of whatever kind of clone.
        childless = pid < 0 && errno == ECHILD;
        if (pid <= 0) {
            *more = false;
            return ended;
        }
        if (pid == handler) {
            *status = one;
            ended = true;
        } else if (pid == zygote.pid) {
            zygote_gone();
        } else {
            met_others = true;
        }
    }
    *more = true;
    return ended;
}

struct end {
    enum how how;
    uint32_t code;
};

static int child_signal;

// What has come from the host during a call: nothing is legal, hanging up is.
static void check_host(void)
{
    unsigned char byte;
    ssize_t n = recv(CONTROL, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0)
        _exit(BAD_FRAME);
    if (n == 0 || errno == ECONNRESET)
        _exit(GONE);
    if (errno != EAGAIN && errno != EINTR)
        _exit(BROKEN);
}

static void forget_child_signal(void)
{
    struct signalfd_siginfo ignored;
    if (read(child_signal, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        _exit(BROKEN);
}

static struct end end_of(int status)
{
    if (WIFEXITED(status))
        return (struct end){EXITED, (uint32_t)WEXITSTATUS(status)};
    return (struct end){KILLED, (uint32_t)WTERMSIG(status)};
}

#include "others.h"
#include "runner.h"

// Waits for the handler's end or its deadline, whichever is seen first, and moves output meanwhile.
// Every turn moves one chunk of each stream, reaps, and looks at the clock: a flood on one stream
// starves neither the other nor the deadline.
//
// With a runner, `handler` is its process, and the end is what it says or its own.
static struct end watch(pid_t handler, uint64_t deadline, struct stream streams[3], uint64_t nonce)
{
    struct end end;
    int status = 0;
    bool more = false;
    for (;;) {
        uint64_t now = now_ns();
        if (now >= deadline)
            return (struct end){DEADLINE, 0};
        if (out.used > 0 && now - out.since >= LINGER_NS)
            out_send();
        uint64_t wait = deadline - now;
        if (out.used > 0 && out.since + LINGER_NS - now < wait)
            wait = out.since + LINGER_NS - now;
        if (more)
            wait = 0;
        struct timespec timeout = {(time_t)(wait / SECOND_NS), (long)(wait % SECOND_NS)};
        struct pollfd polled[5] = {
            {.fd = CONTROL, .events = POLLIN},
            {.fd = child_signal, .events = POLLIN},
            // A stream that has ended would wake us for ever; poll passes over -1.
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
        // Before its death is looked at: what it said before it died counts.
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

// Kills every process of the sandbox but ourselves, and returns when none is left. Where we have no
// child, or the zygote alone, there is nobody of a call, and the kernel need not look at every process
// of the host; where there is somebody the zygote goes with them, and another is started later.
// Outside a PID namespace this line would kill the machine, hence the check right here. ESRCH is the
// proof. A fork cannot slip through, since the kernel refuses to fork with a signal pending. Whatever
// does not die within a second of turns is not ours to wait for.
static void kill_everyone(void)
{
    if (childless || (zygote.pid > 0 && kill_children_but(zygote.pid) == 0))
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

// -------------------------------------------------------------------------------------- cleaning

#include "clean.h"

// Sends END, cleans, sends CLEAN. Looking costs microseconds and cleaning may not, so a call that
// left nothing behind is reported and clean in one send, and one that did is reported first.
// A runner that keeps its state keeps what it has open as well, so there nothing is taken from it.
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
    if (start_again && !runner_start())
        _exit(NOT_CLEAN);
    put64(out_frame('Z', NONCE), nonce);
    out_send();
}

// ------------------------------------------------------------------------------------ specialise

#include "prefork.h"

// Starts a runner for whatever version will come. Its failure shows when one does.
static void prepare_runner(size_t length)
{
    if (special.ready || runner.pid != 0 || length > SPECIALISE_MAX)
        _exit(BAD_FRAME);
    in_exactly(special_bytes, length);
    if (!parse_prepare(special_bytes, length))
        _exit(BAD_FRAME);
    special.cwd = "/";
    runner_spawn();
}

static void specialise(size_t length)
{
    if (special.ready || length > SPECIALISE_MAX)
        _exit(BAD_FRAME);
    in_exactly(special_bytes, length);
    if (!parse_specialise(special_bytes, length))
        _exit(BAD_FRAME);

    const char *why;
    char text[TEXT_MAX];
    int error = prove_cwd(&why), text_length = 0;
    if (error != 0)
        text_length = snprintf(text, sizeof text, "working_directory %.300s %s", special.cwd, why);
    if (error == 0 && special.resident) {
        bool prepared = runner.pid > 0;
        if (prepared && special.fresh)
            runner_drop();
        error = (prepared && !special.fresh ? runner_load() : runner_start()) ? 0 : ENOEXEC;
        text_length = snprintf(text, sizeof text, "%s", runner.told);
    }
    unsigned char *at = out_frame('P', 4 + (size_t)text_length);
    put32(at, (uint32_t)error);
    memcpy(at + 4, text, (size_t)text_length);
    out_send();
    if (error != 0)
        _exit(GONE);

    // The pages that the end of a call needs are made ours now, while memory is there: at the end a
    // handler's files may have used up all there is. Prewarmed sandboxes that wait do not pay for them.
    for (size_t i = 0; i < sizeof out.bytes; i += 4096)
        ((volatile unsigned char *)out.bytes)[i] = 0;
    special.ready = true;
    prefork_start();
}

// ------------------------------------------------------------------------------------ one call

static void report(uint64_t nonce, struct end end, const struct stream streams[3])
{
    char text[TEXT_MAX];
    int text_length = 0;
    uint64_t dropped[3] = {0};
    for (int i = 0; i < 3; i++)
        dropped[streams[i].kind == 'E' ? 1 : streams[i].kind == 'T' && result_has_limit ? 2 : 0] +=
            streams[i].dropped;
    if (end.how == NOT_STARTED)
        text_length = snprintf(text, sizeof text, "the sandbox could not %s%.300s: %s",
                               failure.step, failure.name, strerror(failure.error));
    unsigned char *at = out_frame('X', END_HEAD + (size_t)text_length);
    put64(at, nonce);
    put32(at + 8, end.how);
    put32(at + 12, end.code);
    for (int i = 0; i < 3; i++)
        put64(at + 16 + 8 * i, dropped[i]);
    memcpy(at + END_HEAD, text, (size_t)text_length);
}

// Wiped as soon as the handler has them: a call's variables and payload are not kept in memory
// longer than its start needs them.
static void wipe_call(const struct call *call)
{
    explicit_bzero(call_env, call->env_bytes);
    explicit_bzero(in.bytes, in.most);
    in.most = 0;
}

// Nobody is left to write after this, so what the pipes hold is all there will ever be. They may
// still not be at their end (a descriptor can be under way inside a dead socket until the kernel
// collects it), but they do not block.
static void empty(struct stream streams[2], uint64_t nonce)
{
    for (int i = 0; i < 2; i++)
        while (streams[i].fd >= 0 && !streams[i].ended && pump(&streams[i], nonce)) {
        }
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
        could_not("make a process", "", errno);
    // The handler has its own copies now. Ours would keep its pipes from ending.
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
        end = watch(handler, deadline, streams, call->nonce);
    else
        end.code = (uint32_t)failure.error;

    kill_everyone();
    empty(streams, call->nonce);
    for (int i = 0; i < 2; i++)
        if (streams[i].fd >= 0)
            close(streams[i].fd);
    report(call->nonce, end, streams);
    finish(call->nonce, false);
    if (end.how == EXITED || end.how == KILLED)
        prefork_start();
}

static void serve_by_runner(struct call *call)
{
    if (runner.pid == 0)
        _exit(BAD_FRAME); // It ended with the call before, and the host was told so.
    struct stream streams[3] = {{.fd = runner.out, .kind = runner_out_kind()},
                                {.fd = runner.log, .kind = 'E'},
                                {.fd = -1, .kind = 'T'}};
    struct end end = {NOT_STARTED, 0};
    met_others = false;
    bool fine = runner_open_streams();
    fine = runner_ask(call) && fine;
    if (runner.forks)
        memcpy(streams, runner.streams, sizeof runner.streams);
    expect_silence();
    uint64_t deadline = now_ns() + call->timeout_ms * MS_NS;
    wipe_call(call);
    runner_tell_start(&streams[1], call->nonce);
    if (fine)
        runner_send();
    if (fine)
        end = watch(runner.pid, deadline, streams, call->nonce);
    else
        end.code = (uint32_t)failure.error;

    bool stays = special.keep_state || runner.forks;
    bool spoilt = runner.pid == 0 || !runner_has_read();
    bool goes_on = stays && !spoilt && end.how != DEADLINE;
    bool there = goes_on && kill_all_but(runner.pid);
    if (!there)
        kill_everyone();
    empty(streams, call->nonce);
    if (runner.forks)
        runner_close_streams(&streams[1], call->nonce);
    if (goes_on) {
        // The longer it has had to come to rest, the better.
        bool same = there && (!runner.forks || parent_is_as_it_was(runner.pid));
        bool waits = there && parent_waits(runner.pid, runner.forks);
        spoilt = !same || !waits;
        if (runner.forks && spoilt) {
            const char *why =
                waits ? "the call changed the process that it was forked from\n"
                      : "the call ended, stopped or signalled the process that it was forked from\n";
            runner_add(&streams[1], call->nonce, why, strlen(why));
            end = (struct end){EXITED, 1};
        }
    }
    report(call->nonce, end, streams);
    runner_forget_call();
    if (end.how == DEADLINE || (stays && spoilt)) {
        // It was killed at an unknown point, or by somebody who may do worse, or would take what is
        // left of this call for the next: never used again.
        out_send();
        _exit(GONE);
    }
    if (!stays)
        runner_close();
    finish(call->nonce, !stays);
    // Else the call says why there are none.
    if (!runner_open_streams())
        could_not(NULL, "", 0);
}

static void serve_call(size_t length)
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

// ----------------------------------------------------------------------------------------- start

static void prepare(void)
{
    // Standard streams of our own, so that no descriptor of a call is ever 0, 1 or 2. Under gVisor
    // those that came along are files of the host, which a handler could open again by /proc/1/fd.
    for (int fd = 0; fd < 3; fd++) {
        if (in_gvisor)
            close(fd);
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            _exit(BAD_START);
    }
    if (fcntl(CONTROL, F_SETFD, FD_CLOEXEC) != 0)
        _exit(BAD_START);

    // execve keeps ignored signals ignored; whoever started us may have ignored some. As pid 1 we
    // are spared the default action of all of them anyway.
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    if (sigprocmask(SIG_SETMASK, &children, NULL) != 0)
        _exit(BAD_START);
    child_signal = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    if (child_signal < 0)
        _exit(BAD_START);

    // Not dumpable: no handler may look into us through /proc, nor into the child of vfork. The
    // runtime has set no_new_privs; once more costs nothing and holds if it ever does not.
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        _exit(BAD_START);
    // Groups are inherited: dropped once here, they are dropped for every handler, and the working
    // directory is proved with exactly the handler's rights.
    if (setgroups(0, NULL) != 0 || chdir("/") != 0)
        _exit(BAD_START);
    if (!prepare_oom_score())
        _exit(BAD_START);
    // Here and not by the runtime: the limit that holds when a user namespace is made becomes one for
    // all users of its maker together, and one handler's timers would take those of every sandbox.
    struct rlimit pending = {PENDING_SIGNALS, PENDING_SIGNALS};
    if (!in_gvisor && setrlimit(RLIMIT_SIGPENDING, &pending) != 0)
        _exit(BAD_START);
    umask(022);
    if (shell_library != NULL)
        let_zygote_inherit();
    drop_bounding_set();
}

int main(int argc, char **argv)
{
    if (getpid() != 1 || argc < 4)
        return BAD_START;
    tmp_options = argv[1];
    shm_options = argv[2];
    oom_score_adj = argv[3];
    in_gvisor = argc > 4 && strcmp(argv[4], "gvisor") == 0;
    writable = argv + 4 + in_gvisor;
    if (*writable != NULL && strncmp(*writable, "shell=", 6) == 0)
        shell_library = *writable++ + 6;
    if (*writable != NULL && strncmp(*writable, "output=", 7) == 0 && !set_output_max(*writable++ + 7))
        return BAD_START;
    prepare();
    put32(out_frame('H', 4), PROTOCOL_VERSION);
    out_send();
    for (;;) {
        unsigned char header[HEADER];
        in_exactly(header, sizeof header);
        uint32_t kind = get32(header); // With its three zero bytes: anything else matches nothing.
        size_t length = get32(header + 4);
        if (kind == 'R')
            prepare_runner(length);
        else if (kind == 'S')
            specialise(length);
        else if (kind == 'C')
            serve_call(length);
        else
            return BAD_FRAME;
    }
}
