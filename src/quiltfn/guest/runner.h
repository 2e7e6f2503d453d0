// SPDX-License-Identifier: Apache-2.0
//
// A program that is started before an invocation arrives, and then serves it.

#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "frames.h"
#include "processes.h"
#include "streams.h"

enum { LINE = 512 }; // The maximum length of a line from a runner.

extern struct runner {
    pid_t pid; // 0: no runner.
    int control, out, log;
    bool forks, forks_ahead;
    bool result_on_stdout; // Its output to descriptor 1 is the result of an invocation.
    char line[LINE]; // The received part of its next line.
    size_t line_used;
    char told[LINE]; // The text after `ready` or `refused`, or why it did not start.
    size_t result_left; // Bytes of the result after `done` that have not arrived yet.
    struct end end;     // The content of that `done`.
    // Data of the invocation that is not sent to it yet: bytes, then a file.
    size_t ask_used, ask_sent;
    int file;
    off_t file_sent;
    size_t file_left;
    // Its output before it was ready belongs to the standard error of the first invocation.
    size_t start_log_used;
    // For a runner that forks: the streams of the next invocation.
    int given[3];
    struct stream streams[2];
} runner;

// The start of a runner. On failure these return an errno, and `told` has the reason; the sandbox
// must then end. runner_last_log copies its last output, at most LAST_WORDS bytes.
size_t runner_last_log(unsigned char *to);
int runner_spawn(void);
int runner_start(void);
int runner_load(void);
void runner_drop(void);
void runner_close(void);

// Lets a runner fork the process of the next invocation, if it has offered that.
void runner_go_ahead(void);

// An invocation in a runner. Call these in this order, but runner_has_written after runner_ask.
unsigned char runner_out_kind(void);
bool runner_open_streams(void);
bool runner_ask(const struct call *call);
void runner_tell_start(struct stream *log, uint64_t nonce);
void runner_send(void);
struct pollfd runner_poll(void);
bool runner_turn(short revents, uint64_t nonce, struct stream streams[3], struct end *end);
bool runner_has_read(void);
bool runner_has_written(void);
void runner_close_streams(struct stream *log, uint64_t nonce);
void runner_forget_call(void);
