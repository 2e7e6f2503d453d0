// SPDX-License-Identifier: Apache-2.0
//
// The frames of ordinary invocations, of docs/reference/guest-protocol.md, as guest/wire.py reads and
// writes them. Others are left to it.

#include "guest_frames.h"

#include <string.h>

enum { FRAME_HEAD = 8, NONCE = 8, END_LENGTH = 40 };
enum { CALL = 'C', STDOUT = 'O', STDERR = 'E', RESULT = 'T', END = 'X', CLEAN = 'Z', HAS_PAYLOAD = 1 };
enum { OUTPUT_MAX = 64 * 1024, VARIABLE_HEAD = 4 };

static uint32_t number_at(const char *at)
{
    uint32_t number;
    memcpy(&number, at, sizeof number);
    return number;
}

// Takes a complete frame of invocation `nonce`, with all of its length. Returns its kind; 0: none.
static uint32_t take_frame(const char **at, const char *end, uint64_t nonce, struct text *body)
{
    if (end - *at < FRAME_HEAD + NONCE)
        return 0;
    uint32_t kind = number_at(*at), length = number_at(*at + 4);
    if (length < NONCE || length > (size_t)(end - *at - FRAME_HEAD))
        return 0;
    if (memcmp(*at + FRAME_HEAD, &nonce, NONCE) != 0)
        return 0;
    *body = (struct text){*at + FRAME_HEAD + NONCE, length - NONCE};
    *at += FRAME_HEAD + length;
    return kind;
}

bool read_reply(const char *bytes, size_t length, uint64_t nonce, struct reply *to)
{
    static const char exited_with_0[END_LENGTH - NONCE];
    const char *at = bytes, *end = bytes + length;
    struct text body;
    *to = (struct reply){.output = {bytes, 0}};
    uint32_t kind = take_frame(&at, end, nonce, &body);
    if (kind == STDOUT || kind == RESULT || kind == STDERR) {
        if (body.length == 0 || body.length > OUTPUT_MAX)
            return false;
        to->is_error = kind == STDERR;
        to->output = body;
        kind = take_frame(&at, end, nonce, &body);
    }
    // Kind, code, and dropped bytes are 0, and there is no text.
    if (kind != END || body.length != sizeof exited_with_0 || memcmp(body.at, exited_with_0, body.length) != 0)
        return false;
    to->is_clean = at < end;
    return at == end || is_clean(at, (size_t)(end - at), nonce);
}

bool is_clean(const char *bytes, size_t length, uint64_t nonce)
{
    const char *at = bytes;
    struct text body;
    return take_frame(&at, bytes + length, nonce, &body) == CLEAN && body.length == 0 && at == bytes + length;
}

static char *put32(char *to, uint32_t number)
{
    memcpy(to, &number, sizeof number);
    return to + sizeof number;
}

size_t put_variable(char *to, size_t used, struct text name, struct text value)
{
    size_t room = CALL_ROOM - CALL_HEAD - COUNT - used;
    if (name.length == 0 || memchr(name.at, '=', name.length) != NULL || memchr(name.at, 0, name.length) != NULL)
        return 0;
    if (memchr(value.at, 0, value.length) != NULL || name.length > room || value.length > room ||
        VARIABLE_HEAD + name.length + 1 + value.length > room)
        return 0;
    char *at = put32(to + CALL_HEAD + COUNT + used, (uint32_t)(name.length + 1 + value.length));
    memcpy(at, name.at, name.length);
    at[name.length] = '=';
    memcpy(at + name.length + 1, value.at, value.length);
    return used + VARIABLE_HEAD + name.length + 1 + value.length;
}

size_t put_call(char *to, size_t used, uint32_t count, const struct call *of)
{
    bool has_payload = of->payload.at != NULL;
    size_t variables = COUNT + used, size = CALL_HEAD + variables + of->payload.length;
    if (of->payload.length > CALL_ROOM || size > CALL_ROOM)
        return 0;
    char *at = put32(to, CALL);
    at = put32(at, (uint32_t)(size - FRAME_HEAD));
    memcpy(at, &of->nonce, NONCE);
    at = put32(at + NONCE, of->timeout_ms);
    at = put32(at, of->flags | (has_payload ? HAS_PAYLOAD : 0));
    at = put32(at, (uint32_t)variables);
    put32(at, count);
    if (has_payload)
        memcpy(to + CALL_HEAD + variables, of->payload.at, of->payload.length);
    return size;
}
