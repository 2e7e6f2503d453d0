// SPDX-License-Identifier: Apache-2.0
//
// Reading from the host and writing to it.

#include "host.h"
#include "descriptors.h"
#include "processes.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

struct out out;

// A buffered reader, so that a small invocation needs one recv. It may read past a frame, which is
// safe: the host may not send anything between CALL and CLEAN (see expect_silence).
static struct {
    unsigned char bytes[CHUNK_MAX];
    size_t start, end, most; // most: the highest end since the buffer was last overwritten.
    time_t patience; // How long in_comes waits, in seconds; 0: without an end.
} in;

// Ends the sandbox when the host closes the connection. Kills the sandbox's processes before the
// guest's end of the socket closes: the closing tells the host that nothing runs any more, but the
// kernel would kill processes only after it.
static void end_for_host(bool is_gone)
{
    kill_everyone();
    _exit(is_gone ? GONE : BROKEN);
}

// Waits for the host. Returns false if it has sent nothing within the time set by in_patience.
bool in_comes(void)
{
    ssize_t n;
    if (in.start != in.end)
        return true;
    while ((n = recv(CONTROL, in.bytes, sizeof in.bytes, 0)) < 0 && errno == EINTR) {
    }
    if (n < 0 && errno == EAGAIN)
        return false;
    // ECONNRESET is an end as well: the host closed the socket before it read all frames.
    if (n <= 0)
        end_for_host(n == 0 || errno == ECONNRESET);
    in.start = 0;
    in.end = (size_t)n;
    if (in.end > in.most)
        in.most = in.end;
    return true;
}

// Sets how long in_comes waits, in seconds; 0: without an end.
void in_patience(time_t seconds)
{
    struct timeval patience = {seconds, 0};
    if (seconds != in.patience &&
        setsockopt(CONTROL, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0)
        in.patience = seconds;
}

size_t in_some(unsigned char **at, size_t most)
{
    while (!in_comes()) {
    }
    size_t n = in.end - in.start < most ? in.end - in.start : most;
    *at = in.bytes + in.start;
    in.start += n;
    return n;
}

void in_exactly(unsigned char *to, size_t length)
{
    for (size_t n; length > 0; to += n, length -= n) {
        unsigned char *at;
        n = in_some(&at, length);
        memcpy(to, at, n);
    }
}

bool in_holds_some(void)
{
    return in.start != in.end;
}

void in_wipe(void)
{
    explicit_bzero(in.bytes, in.most);
    in.most = 0;
}

void expect_silence(void)
{
    if (in_holds_some())
        _exit(BAD_FRAME);
}

// Call this when the host's socket is readable during an invocation: the host may only close it.
void check_host(void)
{
    unsigned char byte;
    ssize_t n = recv(CONTROL, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0)
        _exit(BAD_FRAME);
    if (n == 0 || (errno != EAGAIN && errno != EINTR))
        end_for_host(n == 0 || errno == ECONNRESET);
}

static void out_seal(void)
{
    if (out.stream != 0)
        put32(out.bytes + out.open + 4, (uint32_t)(out.used - out.open - HEADER));
    out.stream = 0;
}

void out_send_with(int fd)
{
    out_seal();
    size_t sent = 0;
    while (sent < out.used) {
        // This may block: if the host does not read, its own deadline for the guest applies. With
        // MSG_NOSIGNAL, the guest need not ignore SIGPIPE, which handlers would inherit.
        struct iovec rest = {out.bytes + sent, out.used - sent};
        ssize_t n = fd < 0 ? send(CONTROL, rest.iov_base, rest.iov_len, MSG_NOSIGNAL)
                           : send_with(CONTROL, &rest, &fd, 1, MSG_NOSIGNAL);
        if (n < 0 && errno != EINTR)
            end_for_host(errno == EPIPE || errno == ECONNRESET);
        if (n < 0)
            continue;
        fd = -1;
        sent += (size_t)n;
    }
    out.used = 0;
}

void out_send(void)
{
    out_send_with(-1);
}

// Begins a frame with a payload of `length` bytes, and returns the address for the payload.
unsigned char *out_frame(unsigned char kind, size_t length)
{
    out_seal();
    if (sizeof out.bytes - out.used < HEADER + length)
        out_send();
    unsigned char *at = out.bytes + out.used;
    put32(at, kind);
    put32(at + 4, (uint32_t)length);
    out.used += HEADER + length;
    return at + HEADER;
}
