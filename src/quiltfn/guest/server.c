// SPDX-License-Identifier: Apache-2.0
//
// A server is any program that listens on a TCP port of its sandbox. Its requests do not pass
// through the guest: the host gets the pipe with the server's log, and sockets that were created in
// the sandbox, so that it can connect them only to the loopback of this sandbox.
//
// Rule 1: a socket is sent unconnected: only the host connects it, so the guest never waits for the
//         server.
// Rule 2: requests share the server's process, so its end ends the sandbox, and the host enforces
//         the deadlines.

#include "server.h"
#include "descriptors.h"
#include "frames.h"
#include "host.h"
#include "privileges.h"
#include "processes.h"
#include "protocol.h"
#include "start.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static pid_t server;

bool server_start(int *log)
{
    int fds[3] = {-1, -1, -1}, pair[2] = {-1, -1};
    could_not(NULL, "", 0);
    act_as_handler();
    fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fds[0] < 0 || pipe2(pair, O_CLOEXEC) != 0)
        could_not("create the streams of its web server", "", errno);
    act_as_guest();
    fds[1] = fds[2] = pair[1];
    if (failure.step == NULL && (server = start(HANDLER, fds, -1, 0, special.argv, special.env)) < 0)
        could_not("start a process", "", errno);
    close_if_open(&fds[0]);
    close_if_open(&pair[1]);
    *log = pair[0];
    return failure.step == NULL;
}

// Replies to SOCKET, which has no payload, with a socket or with the error.
static void answer_socket(void)
{
    unsigned char header[HEADER];
    in_exactly(header, sizeof header);
    if (get32(header) != 'D' || get32(header + 4) != 0)
        _exit(BAD_FRAME);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    put32(out_frame('D', 4), fd < 0 ? (uint32_t)errno : 0);
    out_send_with(fd);
    close_if_open(&fd);
}

void serve_server(void)
{
    int status = 0;
    bool more = false;
    for (;;) {
        struct pollfd polled[2] = {{CONTROL, POLLIN, 0}, {child_signal, POLLIN, 0}};
        static const struct timespec now;
        if (ppoll(polled, 2, more || in_holds_some() ? &now : NULL, NULL) < 0 && errno != EINTR)
            _exit(BROKEN);
        if (polled[0].revents != 0 || in_holds_some())
            answer_socket();
        if (polled[1].revents == 0 && !more)
            continue;
        forget_child_signal();
        if (!reap(server, &status, &more))
            continue;
        // Otherwise processes that the server has started would outlive it.
        kill_everyone();
        struct end end = end_of(status);
        unsigned char *at = out_frame('X', END_HEAD);
        memset(at, 0, END_HEAD);
        put32(at + 8, end.kind);
        put32(at + 12, end.code);
        out_send();
        _exit(GONE);
    }
}
