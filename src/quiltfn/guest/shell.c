// SPDX-License-Identifier: Apache-2.0
//
// Turns a shell into a zygote: a process that has been loaded and linked, waits before its main,
// and is forked for each invocation. Loading a shell, finding its libraries and relocating it takes
// several times as long as a short command line in it; forking a loaded shell is much faster.
//
// It is linked into a static copy of the sandbox's /bin/sh (shell_build.py); without one, the guest
// makes /bin/sh preload it as a library. Its constructor runs before main, and returns only in the
// forks. They continue as `sh -c HANDLER`, with ids, streams, directory and variables as after a
// normal start.
//
// Rule 1: the zygote never has data of an invocation in its memory. A fork reads the data of its
//         invocation after it has dropped everything that a handler may not have.
// Rule 2: it has the privileges to give a fork the handler's ids. So no handler may signal it,
//         trace it, or set its limits, and it accepts requests only from the guest.
// Rule 3: without this code the shell would run its command line with these privileges. So that
//         command line is a comment, at least as long as the handler's, which each fork replaces.
//
// zygote.h is the guest's side.

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

enum { CONTROL = 3, HANDLER_ID = 1000, STREAMS = 3, RECEIVED = 4, CANNOT = 126 };
// A command line is bounded by the kernel's MAX_ARG_STRLEN. An invocation's variables are bounded
// by what a pipe holds, so that the guest can write them without waiting for a reader.
enum { TEXT_MAX = 128 * 1024 + PATH_MAX, BLOCK_MAX = 64 * 1024, VARIABLES_MAX = BLOCK_MAX / 2 };

extern char **environ;

// Unused pages of these buffers take no memory.
static char text[TEXT_MAX];
static char block[BLOCK_MAX];
static char *variables[VARIABLES_MAX + 1];

static int read_exactly(int fd, void *to, size_t length)
{
    char *at = to;
    while (length > 0) {
        ssize_t n = read(fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        at += n;
        length -= (size_t)n;
    }
    return 1;
}

// Receives an invocation's ends of its streams and of the pipe for its variables, as close-on-exec.
static int receive(int fds[RECEIVED])
{
    char byte;
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(RECEIVED * sizeof(int))];
    } control;
    struct iovec one = {&byte, 1};
    struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1};
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    ssize_t n;
    do
        n = recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    struct cmsghdr *head = n == 1 ? CMSG_FIRSTHDR(&message) : NULL;
    if (head == NULL || head->cmsg_type != SCM_RIGHTS ||
        head->cmsg_len != CMSG_LEN(RECEIVED * sizeof(int)))
        return 0;
    memcpy(fds, CMSG_DATA(head), RECEIVED * sizeof(int));
    return 1;
}

// Forks a process as a child of the guest instead of the zygote. So the guest learns of its end
// directly, and its parent is the same as for other handlers. A plain system call does not update
// the thread id that libc stores, so the kernel is told to write it.
static pid_t fork_for_guest(int *thread_id)
{
    unsigned long flags = CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
#if defined(__aarch64__)
    return (pid_t)syscall(SYS_clone, flags, NULL, NULL, 0UL, thread_id);
#else
    return (pid_t)syscall(SYS_clone, flags, NULL, NULL, thread_id, 0UL);
#endif
}

// Does the same as the guest's `start` before execve. Changes the ids first, so that data of an
// invocation is only read with the handler's ids.
static void become_handler(const int fds[RECEIVED], const char *directory)
{
    struct __user_cap_header_struct version = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3];
    memset(none, 0, sizeof none);
    int failed = setsid() < 0;
    failed |= syscall(SYS_setresgid, HANDLER_ID, HANDLER_ID, HANDLER_ID) != 0;
    failed |= syscall(SYS_setresuid, HANDLER_ID, HANDLER_ID, HANDLER_ID) != 0;
    failed |= syscall(SYS_capset, &version, none) != 0;
    for (int i = 0; i < STREAMS; i++)
        failed |= dup2(fds[i], i) < 0;
    failed |= dup2(fds[STREAMS], CONTROL) < 0;
    failed |= syscall(SYS_close_range, CONTROL + 1, INT_MAX, 0) != 0;
    failed |= chdir(directory) != 0;
    // The same as after execve; otherwise this process's files in /proc would belong to root. This
    // comes last, so that no process with the same ids can examine this one before the guest's
    // socket is closed.
    failed |= prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0;
    if (failed)
        _exit(CANNOT); // The guest then starts another shell, which reports the error.
}

// Reads an invocation's variables: their size in bytes, then the strings.
static int take_variables(void)
{
    uint32_t length;
    if (!read_exactly(CONTROL, &length, sizeof length) || length > BLOCK_MAX ||
        !read_exactly(CONTROL, block, length) || (length > 0 && block[length - 1] != '\0'))
        return 0;
    size_t count = 0;
    for (size_t at = 0; at < length; at += strlen(block + at) + 1) {
        if (count == VARIABLES_MAX)
            return 0;
        variables[count++] = block + at;
    }
    environ = variables;
    return 1;
}

// Makes the command line in /proc end here, as the handler may be shorter than the comment. The
// kernel wants all addresses of the process with it, which are fields 26 to 51 of its stat file. A
// kernel without CONFIG_CHECKPOINT_RESTORE refuses; the command line then has further NULs.
static void end_arguments_at(char *end)
{
    // In the order of struct prctl_mm_map. Field 0, which there is not, is for the heap's end.
    static const int fields[] = {26, 27, 45, 46, 47, 0, 28, 48, 49, 50, 51};
    enum { HEAP_END = 5, ARGUMENTS_END = 8, FIRST = 3, FIELDS = 52 };
    static char stat[1024];
    uint64_t field[FIELDS] = {0};
    union {
        struct prctl_mm_map map;
        uint64_t addresses[sizeof fields / sizeof *fields];
    } to = {.map = {.exe_fd = (uint32_t)-1}};
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = read(fd, stat, sizeof stat - 1);
    close(fd);
    char *at = n > 0 ? strrchr(stat, ')') : NULL; // The end of its name.
    for (int i = FIRST; i < FIELDS; i++) {
        if (at == NULL || (at = strchr(at + 1, ' ')) == NULL)
            return;
        field[i] = strtoull(at, NULL, 10);
    }
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        to.addresses[i] = field[fields[i]];
    to.addresses[HEAP_END] = (uintptr_t)sbrk(0);
    to.addresses[ARGUMENTS_END] = (uintptr_t)end;
    prctl(PR_SET_MM, PR_SET_MM_MAP, &to.map, sizeof to.map, 0);
}

__attribute__((constructor)) static void serve(int argc, char **argv, char **env)
{
    // Lengths of the directory's name and of the command line, which follow, each with its NUL.
    uint32_t lengths[2];
    int *thread_id = NULL;
    int fds[RECEIVED];
    if (argc != 3 || geteuid() != 0 || prctl(PR_SET_NAME, "sh", 0, 0, 0) != 0 ||
        !read_exactly(CONTROL, lengths, sizeof lengths))
        return; // Not started by the guest: this is an ordinary shell.
    size_t both = (size_t)lengths[0] + lengths[1], room = strlen(argv[2]) + 1;
    if (both > sizeof text || !read_exactly(CONTROL, text, both) || lengths[1] > room ||
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 ||
        prctl(PR_GET_TID_ADDRESS, &thread_id, 0, 0, 0) != 0)
        _exit(CANNOT);
    memset(argv[2] + lengths[1], 0, room - lengths[1]);
    if (lengths[1] < room)
        end_arguments_at(argv[2] + lengths[1]);
    // The initial environment of a fork, which others can read, must be empty.
    for (; *env != NULL; env++)
        memset(*env, 0, strlen(*env));
    while (receive(fds)) {
        int32_t pid = fork_for_guest(thread_id);
        if (pid == 0) {
            become_handler(fds, text);
            memcpy(argv[2], text + lengths[0], lengths[1]);
            if (!take_variables())
                _exit(CANNOT);
            close(CONTROL);
            return;
        }
        for (int i = 0; i < RECEIVED; i++)
            close(fds[i]);
        if (write(CONTROL, &pid, sizeof pid) != sizeof pid)
            break;
    }
    _exit(0);
}
