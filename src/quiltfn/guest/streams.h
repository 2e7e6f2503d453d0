// SPDX-License-Identifier: Apache-2.0
//
// The streams of a call: made, read and counted.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

// Where a call's bytes come from, and the frames that they go into: 'O' and 'E' are its standard
// output and error, 'T' is the result that a runner tells.
struct stream {
    int fd;
    unsigned char kind;
    bool ended;
    uint64_t sent, dropped;
};

extern bool result_has_limit;
// "STDOUT,STDERR[,RESULT]"; false for anything else.
bool set_output_max(const char *numbers);
size_t room_of(const struct stream *stream);

// Makes standard input and both outputs. False with `failure` set; what was made is in the arrays.
bool open_streams(bool has_payload, int fds[3], struct stream streams[2]);
void close_if_open(int *fd);
void close_all(int fds[3]);

int payload_file(void);
// Reads a call's payload from the host into a file, or past it. False with `failure` set.
bool take_payload(int fd, size_t length);

enum { FORK_FDS = 4 }; // The most descriptors that go with a message: streams and variables.

ssize_t send_with(int to, struct iovec *bytes, const int *fds, size_t count, int flags);

bool pump(struct stream *stream, uint64_t nonce);
void empty(struct stream streams[2], uint64_t nonce);
// Adds to what a call wrote, as far as there is room.
void add_to(struct stream *stream, uint64_t nonce, const void *bytes, size_t n);
