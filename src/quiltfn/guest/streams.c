// SPDX-License-Identifier: Apache-2.0
//
// Pipes and files of an invocation.

#include "streams.h"
#include "clock.h"
#include "host.h"
#include "protocol.h"
#include "start.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

// Missing in the headers of some older distributions; the number is part of the kernel's ABI.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

// Limits on the bytes of standard output, standard error and result that are sent; the guest only
// counts further bytes. Without a limit of their own, results count as standard output.
static uint32_t stdout_max = 6 * 1024 * 1024, stderr_max = 1024 * 1024, result_max;
bool result_has_limit;

bool set_output_max(const char *numbers)
{
    int found = sscanf(numbers, "%" SCNu32 ",%" SCNu32 ",%" SCNu32, &stdout_max, &stderr_max,
                       &result_max);
    result_has_limit = found == 3;
    return found >= 2;
}

// Returns how many bytes of a stream may still be sent.
size_t room_of(const struct stream *stream)
{
    uint64_t most = stream->kind == 'E'                       ? stderr_max
                    : stream->kind == 'T' && result_has_limit ? result_max
                                                              : stdout_max;
    return stream->sent < most ? (size_t)(most - stream->sent) : 0;
}

// Creates a file in memory: one that can't be made executable, if the kernel is 6.3 or newer.
int payload_file(void)
{
    int fd = memfd_create("payload", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("payload", MFD_CLOEXEC);
    return fd;
}

// Everything is new for each invocation, even /dev/null: otherwise an invocation could pass data to
// the next one in the flags and owners of an open file. Only the guest's ends of the pipes are
// non-blocking, since a handler expects ordinary ones. Call this with the handler's effective ids,
// so that the streams belong to the handler.
bool open_streams(bool has_payload, int fds[3], struct stream streams[2])
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
        could_not("create the standard streams", "", errno);
    return fine;
}

// Copies the payload from the socket into the file. If the file has no room for it, the rest is
// read anyway, since the next frame follows it.
bool take_payload(int fd, size_t length)
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
                could_not("store the payload", "", written < 0 ? errno : ENOSPC);
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

// Moves at most one chunk. Returns false if there was nothing to move.
bool pump(struct stream *stream, uint64_t nonce)
{
    static unsigned char discarded[CHUNK_MAX];
    enum { FULL = HEADER + NONCE + CHUNK_MAX, PAGE = 4096 };
    unsigned char *to = discarded;
    size_t room = sizeof discarded, before = 0;
    size_t left = room_of(stream);
    bool keep = left > 0, opened = false;
    if (keep) {
        // Keeps room for at least a page: a read from a pipe in packet mode discards bytes that do
        // not fit. The condition adds instead of subtracting from FULL, since a runner's result may
        // have filled the buffer beyond FULL.
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
        if (opened) { // An empty frame is not sent.
            out.used = before;
            out.stream = 0;
        }
    }
    return n > 0;
}

// Returns how many bytes are in a pipe or socket now.
size_t held_by(int fd)
{
    int n = 0;
    if (ioctl(fd, FIONREAD, &n) != 0)
        _exit(BROKEN);
    return (size_t)n;
}

// Moves the bytes that are in the pipe now, and none that are written meanwhile: a process that
// never stops writing would block the guest forever.
void pump_held(struct stream *stream, uint64_t nonce)
{
    if (!pump(stream, nonce))
        return;
    uint64_t enough = stream->sent + stream->dropped + held_by(stream->fd);
    while (stream->sent + stream->dropped < enough && pump(stream, nonce)) {
    }
}

// Reads the rest of the data in the pipes. Something may still hold their other ends open (a socket
// that the kernel has not collected yet, or threads of a runner that keeps its state), but reads do
// not block.
void empty(struct stream streams[2], uint64_t nonce)
{
    for (int i = 0; i < 2; i++)
        if (streams[i].fd >= 0 && !streams[i].ended)
            pump_held(&streams[i], nonce);
}

void add_to(struct stream *stream, uint64_t nonce, const void *bytes, size_t n)
{
    size_t room = room_of(stream), keep = n < room ? n : room;
    stream->dropped += n - keep;
    if (keep == 0)
        return;
    out.since = now_ns();
    unsigned char *at = out_frame(stream->kind, NONCE + keep);
    put64(at, nonce);
    memcpy(at + NONCE, bytes, keep);
    stream->sent += keep;
}
