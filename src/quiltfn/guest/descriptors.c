// SPDX-License-Identifier: Apache-2.0
//
// Opens, closes and sends descriptors.

#include "descriptors.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PATH_OF_PROC_MAX = 64 };

int open_of(pid_t pid, const char *what)
{
    char path[PATH_OF_PROC_MAX];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
    return open(path, O_RDONLY | O_CLOEXEC);
}

void close_if_open(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void close_all(int fds[3])
{
    for (int i = 0; i < 3; i++)
        close_if_open(&fds[i]);
}

ssize_t send_with(int to, struct iovec *bytes, const int *fds, size_t count, int flags)
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
