// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct text {
    const char *at; // NULL: absent.
    size_t length;
};

// An ordinary request that invokes a function. Its texts point into the bytes that were read.
struct request {
    bool is_by_name;
    struct text function; // The function's id, or its name.
    struct text host, key, request_id;
    struct text payload; // With the escapes of the JSON text.
};

// Returns whether the bytes are exactly one such request.
bool read_request(const char *bytes, size_t length, struct request *to);

// Writes the payload without its escapes to `to`, which has room for `payload.length` bytes. Returns
// its size.
size_t unescape(struct text payload, char *to);

bool is_utf8(const char *bytes, size_t length);
