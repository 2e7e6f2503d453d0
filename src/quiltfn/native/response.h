// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "request.h"

#include <stdint.h>

// An invocation that has succeeded, warm, with all of its output.
struct success {
    struct text begin; // The status line, and the headers that all responses share.
    struct text request_id, invocation_id, function_id, function_name, node_id;
    struct text out, err; // The handler's output, in UTF-8.
    uint64_t version, started_at, ended_at, duration_ms;
    uint64_t queued_us, ran_us, recorded_us;
};

size_t response_room(const struct success *of);

// Writes the response to `to`, which has room for `response_room` bytes. Returns its size.
size_t write_response(const struct success *of, char *to);
