// SPDX-License-Identifier: Apache-2.0
//
// What runs in the zygote, under a fuzzer: shell.c as it is, with its system calls on memory. The
// guest asks for a few forks; the last of them is followed, the others are children of somebody else.
// A part of the program that guest_fuzz.c is the other part of.

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <sanitizer/asan_interface.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

bool shell_run(const uint8_t head[8], const uint8_t *bytes, size_t n);
void shell_is_wrong(const char *what); // Does not return.

enum { ZYGOTE_CONTROL = 3, STAT_FD = 9, OWN_FDS = 20, FIRST_PID = 100 };
enum { BLOCK_LIMIT = 64 * 1024, FAKE_HEAP_END = 4711 };
enum { STRINGS_LIMIT = BLOCK_LIMIT / 2, LINE_MAX_BYTES = 300 };

// What a fork gives up and takes, in this order, before it looks at anything of a call.
enum step { SESSION, GROUP, USER, CAPABILITIES, FD_0, FD_1, FD_2, FD_3, REST, PLACE, DUMPABLE, ALL };

struct source {
    const uint8_t *at;
    size_t left;
};

static struct {
    struct source control, pipe;
    size_t chop;
    unsigned asks, wanted_asks, open; // open: a bit for each descriptor that came with an ask.
    uint8_t trouble, faults;
    enum step fails_at, step;
    bool in_fork, hidden, owed, closed, looked;
    bool stat_open, shortened; // Its own stat file; its command line in /proc has another end.
    int status;
} seen;

static jmp_buf out_of_it;
static char **shell_environ;

static void must(bool holds, const char *what)
{
    if (!holds)
        shell_is_wrong(what);
}

__attribute__((noreturn)) static void fake_exit(int status)
{
    seen.status = status;
    longjmp(out_of_it, 1);
}

// Once.
static bool interrupted(uint8_t bit)
{
    bool now = (seen.faults & bit) != 0;
    seen.faults &= (uint8_t)~bit;
    errno = EINTR;
    return now;
}

static int step(enum step which)
{
    must(seen.in_fork && seen.step == which, "a fork becomes a handler in another order");
    seen.step++;
    if (seen.fails_at != which + 1)
        return 0;
    errno = EPERM;
    return -1;
}

// As the kernel writes it, with a name that looks like the end of a name. Every field is its number.
static ssize_t read_stat(char *to, size_t n)
{
    size_t used = (size_t)snprintf(to, n, "1 (a) 7 (b) S");
    for (int i = 4; i < 53 && (seen.faults & 128) == 0; i++)
        used += (size_t)snprintf(to + used, n - used, " %d", i);
    return (ssize_t)used;
}

static int fake_open(const char *path, int flags)
{
    must(strcmp(path, "/proc/self/stat") == 0 && flags == (O_RDONLY | O_CLOEXEC) && seen.hidden &&
             !seen.stat_open && seen.asks == 0,
         "another file is opened");
    seen.stat_open = true;
    return STAT_FD;
}

static ssize_t fake_read(int fd, void *to, size_t n)
{
    if (fd == STAT_FD && seen.stat_open)
        return read_stat(to, n);
    must(fd == ZYGOTE_CONTROL && !seen.closed, "another descriptor is read");
    must(!seen.in_fork || (seen.step == ALL && seen.fails_at == 0),
         "a call is looked at before that is allowed");
    const char *last = (const char *)to + n - 1;
    must(n == 0 || (!__asan_address_is_poisoned(to) && !__asan_address_is_poisoned(last)),
         "more is read than there is room for");
    if (interrupted(16))
        return -1;
    struct source *from = seen.in_fork ? &seen.pipe : &seen.control;
    seen.looked = seen.looked || seen.in_fork;
    n = n < from->left ? n : from->left;
    n = n < seen.chop ? n : seen.chop;
    memcpy(to, from->at, n);
    from->at += n;
    from->left -= n;
    return (ssize_t)n;
}

static ssize_t fake_recvmsg(int fd, struct msghdr *message, int flags)
{
    must(fd == ZYGOTE_CONTROL && flags == MSG_CMSG_CLOEXEC && !seen.in_fork && seen.hidden,
         "a request is taken in another way");
    must(seen.open == 0 && !seen.owed, "something of a request before is left");
    must(message->msg_iovlen == 1 && message->msg_iov[0].iov_len == 1,
         "a request is more than one byte");
    if (interrupted(32))
        return -1;
    bool last = seen.asks++ == seen.wanted_asks;
    int fds[4] = {OWN_FDS, OWN_FDS + 1, OWN_FDS + 2, OWN_FDS + 3};
    size_t n = last && seen.trouble == 1 ? 3 : 4;
    if (last && seen.trouble == 3)
        return 0;
    *(char *)message->msg_iov[0].iov_base = 'f';
    if (last && seen.trouble == 2) {
        message->msg_controllen = 0;
        return 1;
    }
    must(message->msg_controllen == CMSG_SPACE(sizeof fds), "there is no room for four descriptors");
    struct cmsghdr *head = CMSG_FIRSTHDR(message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = last && seen.trouble == 4 ? SCM_RIGHTS + 1 : SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(n * sizeof *fds);
    memcpy(CMSG_DATA(head), fds, n * sizeof *fds);
    seen.open = 15;
    return 1;
}

static ssize_t fake_write(int fd, const void *from, size_t n)
{
    int32_t pid;
    must(fd == ZYGOTE_CONTROL && n == sizeof pid && !seen.in_fork && seen.owed,
         "it says something else");
    memcpy(&pid, from, sizeof pid);
    int32_t made = (seen.faults & 64) != 0 ? -1 : FIRST_PID + (int32_t)seen.asks;
    must(pid == made, "it tells of another fork");
    seen.owed = false;
    return (seen.faults & 4) != 0 ? -1 : (ssize_t)n;
}

static int fake_close(int fd)
{
    if (fd == STAT_FD && seen.stat_open) {
        seen.stat_open = false;
        return 0;
    }
    unsigned bit = fd >= OWN_FDS && fd < OWN_FDS + 4 ? 1U << (fd - OWN_FDS) : 0;
    must(seen.in_fork ? fd == ZYGOTE_CONTROL && !seen.closed : (seen.open & bit) != 0,
         "another descriptor is closed");
    seen.open &= ~bit;
    seen.closed = seen.in_fork;
    return 0;
}

static long fake_syscall(long which, ...)
{
    va_list rest;
    va_start(rest, which);
    long result = 0;
    if (which == SYS_clone) {
        must(va_arg(rest, unsigned long) == (CLONE_PARENT | CLONE_CHILD_SETTID |
                                             CLONE_CHILD_CLEARTID | SIGCHLD) && !seen.in_fork,
             "a fork is made in another way");
        seen.in_fork = seen.asks > seen.wanted_asks;
        seen.owed = !seen.in_fork;
        result = seen.in_fork ? 0 : (seen.faults & 64) != 0 ? -1 : FIRST_PID + (long)seen.asks;
    } else if (which == SYS_setresgid || which == SYS_setresuid) {
        for (int i = 0; i < 3; i++)
            must(va_arg(rest, int) == 1000, "a fork takes other ids");
        result = step(which == SYS_setresgid ? GROUP : USER);
    } else if (which == SYS_capset) {
        const struct __user_cap_header_struct *version = va_arg(rest, void *);
        const unsigned char *sets = va_arg(rest, void *);
        must(version->version == _LINUX_CAPABILITY_VERSION_3, "capabilities are of another version");
        for (size_t i = 0; i < 2 * sizeof(struct __user_cap_data_struct); i++)
            must(sets[i] == 0, "a fork keeps a capability");
        result = step(CAPABILITIES);
    } else {
        must(which == SYS_close_range && va_arg(rest, int) == 4 && va_arg(rest, int) == INT_MAX,
             "another system call is made");
        result = step(REST);
    }
    va_end(rest);
    return result;
}

static const char *expected_end; // Of the command line in /proc.

static void judge_map(const struct prctl_mm_map *map)
{
    must(map->start_code == 26 && map->end_code == 27 && map->start_data == 45 &&
             map->end_data == 46 && map->start_brk == 47 && map->brk == FAKE_HEAP_END &&
             map->start_stack == 28 && map->arg_start == 48 && map->env_start == 50 &&
             map->env_end == 51 && map->auxv == NULL && map->auxv_size == 0 &&
             map->exe_fd == (uint32_t)-1,
         "an address changes that should not");
    must(expected_end == NULL || map->arg_end == (uintptr_t)expected_end,
         "a command line ends elsewhere");
}

static int fake_prctl(int which, ...)
{
    va_list rest;
    va_start(rest, which);
    int result = 0;
    if (which == PR_SET_DUMPABLE && seen.in_fork) {
        must(va_arg(rest, int) == 1, "a fork's files are not its own");
        result = step(DUMPABLE);
    } else if (which == PR_SET_DUMPABLE) {
        must(va_arg(rest, int) == 0, "the zygote can be looked into");
        seen.hidden = true;
        result = (seen.faults & 1) != 0 ? -1 : 0;
    } else if (which == PR_SET_MM) {
        must(va_arg(rest, int) == PR_SET_MM_MAP && !seen.in_fork, "another address is set");
        judge_map(va_arg(rest, const struct prctl_mm_map *));
        must(va_arg(rest, size_t) == sizeof(struct prctl_mm_map), "a map has another size");
        seen.shortened = true;
        result = (seen.faults & 2) != 0 ? -1 : 0;
    } else if (which == PR_SET_NAME) {
        must(strcmp(va_arg(rest, const char *), "sh") == 0 && !seen.in_fork, "it has another name");
    } else {
        result = (seen.faults & 2) != 0 ? -1 : 0;
    }
    va_end(rest);
    return result;
}

static int fake_dup2(int from, int to)
{
    must(from == OWN_FDS + to, "a descriptor gets another number");
    return step((enum step)(FD_0 + to)) < 0 ? -1 : to;
}

static const char *expected_place;

static int fake_chdir(const char *path)
{
    must(strcmp(path, expected_place) == 0, "a fork works elsewhere");
    return step(PLACE);
}

#define constructor unused // It is called from here, and by nobody before.
#define environ shell_environ
#define geteuid() ((uid_t)(seen.faults >> 3 & 1))
#define read(fd, to, n) fake_read(fd, to, n)
#define recvmsg(fd, message, flags) fake_recvmsg(fd, message, flags)
#define write(fd, from, n) fake_write(fd, from, n)
#define open(path, flags) fake_open(path, flags)
#define sbrk(n) ((void *)(uintptr_t)(FAKE_HEAP_END + (n)))
#define close(fd) fake_close(fd)
#define syscall(...) fake_syscall(__VA_ARGS__)
#define prctl(...) fake_prctl(__VA_ARGS__)
#define setsid() step(SESSION)
#define dup2(from, to) fake_dup2(from, to)
#define chdir(path) fake_chdir(path)
#define _exit(status) fake_exit(status)
#define extern static // Of `environ`, which is ours.
#include SHELL_SOURCE
#undef extern
#undef constructor

// ------------------------------------------------------------------------------------- a second reading

// The number of strings, or -1 where they must be refused.
static long read_block(const uint8_t *at, size_t left)
{
    long count = 0;
    if (left < 4)
        return -1;
    size_t n = at[0] | (size_t)at[1] << 8 | (size_t)at[2] << 16 | (size_t)at[3] << 24;
    if (n > BLOCK_LIMIT || n > left - 4 || (n > 0 && at[3 + n] != 0))
        return -1;
    for (size_t i = 0; i < n; i++)
        count += at[4 + i] == 0;
    return count <= STRINGS_LIMIT ? count : -1;
}

static void check_variables(const uint8_t *bytes, long count)
{
    must(environ == variables, "its variables are other ones");
    const uint8_t *want = bytes + 4;
    for (long i = 0; i < count; i++) {
        must(environ[i] >= block && environ[i] < block + sizeof block, "a variable lies outside");
        size_t n = strlen((const char *)want) + 1;
        must(n <= (size_t)(block + sizeof block - environ[i]) && memcmp(environ[i], want, n) == 0,
             "a variable is another one");
        want += n;
    }
    must(environ[count] == NULL, "the variables do not end");
}

// What the guest tells at first: two lengths, a directory, the line.
static size_t write_telling(uint8_t *to, const char *place, uint32_t line)
{
    uint32_t lengths[2] = {(uint32_t)strlen(place) + 1, line + 1};
    memcpy(to, lengths, 8);
    memcpy(to + 8, place, lengths[0]);
    memset(to + 8 + lengths[0], 'l', line);
    to[8 + lengths[0] + line] = 0;
    return 8 + lengths[0] + lengths[1];
}

// `head`: 0: what is not as it should be (1: number of arguments, 2: the bytes are what the guest tells
// at first, 4: the line is longer than there is room for, 8: its directory has no name, 16: there is more
// room than the line needs); 1: how much a
// read moves; 2: the step of a fork that fails; 3: forks that are not followed, and 16 times what is
// wrong with the last request; 4: the length of the line; 5: the zygote's system calls that fail.
bool shell_run(const uint8_t head[8], const uint8_t *bytes, size_t n)
{
    static uint8_t telling[LINE_MAX_BYTES + 64];
    static char line[LINE_MAX_BYTES];
    char variable[] = "LD_PRELOAD=/x.so", *env[] = {variable, NULL};
    uint32_t length = head[4];
    memset(line, 0, sizeof line);
    bool shorter = (head[0] & 16) != 0;
    memset(line, '#', length + (shorter ? 20 : 0));
    char *argv[] = {(char[]){"sh"}, (char[]){"-c"}, line, NULL};
    memset(&seen, 0, sizeof seen);
    memset(variables, 0, sizeof variables);
    environ = NULL;
    expected_place = (head[0] & 8) != 0 ? "" : "/app";
    bool raw = (head[0] & 2) != 0, longer = !raw && !shorter && (head[0] & 4) != 0;
    seen.chop = head[1] == 0 ? SIZE_MAX : head[1];
    seen.fails_at = head[2] % (ALL + 1);
    seen.wanted_asks = head[3] & 3;
    seen.trouble = (head[3] >> 4) % 5;
    seen.faults = head[5];
    seen.control = (struct source){telling, write_telling(telling, expected_place, length + longer)};
    seen.pipe = (struct source){bytes, n};
    if (raw) {
        seen.control = seen.pipe;
        expected_place = text;
    }
    expected_end = raw ? NULL : line + length + 1;
    bool others = (head[0] & 1) != 0 || (seen.faults & 8) != 0;
    long count = read_block(bytes, n);
    if (setjmp(out_of_it) != 0) {
        must(!others, "an ordinary shell ends");
        must(seen.status == 126 || (seen.status == 0 && !seen.in_fork), "it ends in another way");
        must(!seen.in_fork || raw || seen.fails_at != 0 || count < 0, "a fork ends without a reason");
        must(seen.in_fork || raw || longer || seen.trouble != 0 || (seen.faults & 7) != 0,
             "a zygote ends without a reason");
        return false;
    }
    serve(others && (seen.faults & 8) == 0 ? 2 : 3, argv, env);
    if (!seen.in_fork) {
        must(seen.asks == 0 && !seen.hidden && environ == NULL && variable[0] == 'L',
             "a zygote becomes an ordinary shell");
        must(others || raw, "it is an ordinary shell without a reason");
        return false;
    }
    must(!others && !longer && seen.trouble == 0 && (seen.faults & 3) == 0 && seen.closed,
         "a fork goes on that should not be there");
    must(raw || seen.shortened == (shorter && (seen.faults & 128) == 0),
         "a command line in /proc is longer than the handler's");
    must(seen.fails_at == 0 && seen.step == ALL && seen.looked, "a fork goes on that has failed");
    // What is between the NULs that the guest tells is its own affair.
    must(raw || (strlen(line) == length && strspn(line, "l") == length),
         "a fork runs another command line");
    for (size_t i = length + 1; i < sizeof line; i++)
        must(line[i] == 0, "a command line is longer than the room for it");
    for (size_t i = 0; i < sizeof variable; i++)
        must(variable[i] == 0, "a fork shows what the zygote was started with");
    if (!raw) {
        must(count >= 0, "variables are taken that must be refused");
        check_variables(bytes, count);
    }
    return true;
}
