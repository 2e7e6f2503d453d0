// SPDX-License-Identifier: Apache-2.0
//
// The server's native module under a fuzzer, without Python. An input is a request, and the output of
// the handler that it invokes; or the frames of a guest, and texts for a frame to it. What they mean is
// compared elsewhere, with the server's other parsers (fuzz/targets.py). A part of the program that
// guest_fuzz.c is the other part of.

#include "guest_frames.c"
#include "request.c"
#include "response.c"

#include <stdlib.h>

bool native_run(const char *bytes, size_t n);
bool native_reply_run(const char *bytes, size_t n);
void native_is_wrong(const char *what); // Does not return.

static void must(bool holds, const char *what)
{
    if (!holds)
        native_is_wrong(what);
}

static void must_be_in(struct text text, const char *from, const char *end, bool must_be_there)
{
    if (text.at == NULL) {
        must(!must_be_there, "a part is missing");
        return;
    }
    must(text.at > from && text.at < end && text.length <= (size_t)(end - text.at), "a part is elsewhere");
    must(text.length > 0 && text.at[0] != ' ' && text.at[text.length - 1] != ' ', "a part has blanks, or nothing");
}

// UTF-8, by the code points.
static bool is_text(const char *bytes, size_t n)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    for (size_t i = 0, size; i < n; i += size) {
        unsigned char first = (unsigned char)bytes[i];
        size = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
        if (size == 0 || size > n - i)
            return false;
        uint32_t point = size == 1 ? first : first & (0xffU >> (size + 1));
        for (size_t k = 1; k < size; k++) {
            if (((unsigned char)bytes[i + k] & 0xc0) != 0x80)
                return false;
            point = point << 6 | ((unsigned char)bytes[i + k] & 0x3f);
        }
        if (point < least[size] || point > 0x10ffff || point >> 11 == 27)
            return false;
    }
    return true;
}

// A copy that a sanitizer guards on both sides.
static char *copy_of(const char *bytes, size_t n)
{
    char *copy = malloc(n);
    if (n > 0)
        memcpy(copy, bytes, n);
    return copy;
}

static void check_payload(struct text payload)
{
    char *to = malloc(payload.length);
    size_t size = unescape(payload, to);
    must(size <= payload.length && is_text(to, size), "a payload is no text");
    must(memchr(to, 0, size) == NULL, "a payload has a NUL");
    free(to);
}

static void check_response(struct text id, struct text name, const char *out, size_t n)
{
    struct success of = {.begin = {"HTTP/1.1 200 OK\r\n", 17}, .request_id = id, .invocation_id = id, .function_id = id,
                         .function_name = name, .node_id = name, .out = {out, n}, .err = {out, n / 2}};
    of.version = of.started_at = of.ended_at = of.duration_ms = UINT64_MAX;
    of.queued_us = of.ran_us = of.recorded_us = UINT64_MAX;
    size_t room = response_room(&of);
    char *to = malloc(room);
    size_t size = write_response(&of, to);
    must(size <= room, "a response is longer than its room");
    const char *length = memmem(to, size, "\r\ncontent-length: ", 18), *body = memmem(to, size, "\r\n\r\n", 4);
    must(length != NULL && body > length, "a response has no length");
    must(strtoull(length + 18, NULL, 10) == (size_t)(to + size - body - 4), "a response has another length");
    must(to[size - 1] == '}', "a response is cut");
    for (const char *at = body + 4; at < to + size; at++)
        must((unsigned char)*at >= ' ', "a response has a control character");
    free(to);
}

bool native_run(const char *bytes, size_t n)
{
    char *copy = copy_of(bytes, n);
    struct request found;
    bool taken = read_request(copy, n, &found);
    if (taken) {
        const char *body = memmem(copy, n, "\r\n\r\n", 4);
        must(body != NULL && memchr(copy, 0, (size_t)(body - copy)) == NULL, "a head has a NUL, or no end");
        must_be_in(found.function, copy, body, true);
        must_be_in(found.host, copy, body, true);
        must_be_in(found.key, copy, body, false);
        must_be_in(found.request_id, copy, body, false);
        if (found.payload.at != NULL) {
            must(found.payload.at > body && found.payload.at + found.payload.length < copy + n, "a payload is elsewhere");
            check_payload(found.payload);
        }
        char *out = copy_of(copy, n);
        for (size_t i = 0; i < n; i++)
            out[i] &= 0x1f;
        check_response(found.host, found.function, out, n);
        free(out);
    }
    must(is_utf8(copy, n) == is_text(copy, n), "it is taken for text, or not");
    free(copy);
    return taken;
}

// A CALL frame of these texts, cut where the bytes say.
static void check_call(const char *bytes, size_t n)
{
    char *to = malloc(CALL_ROOM), *copy = copy_of(bytes, n);
    size_t used = 0, at = 0;
    uint32_t count = 0;
    while (at < n && count < 3) {
        size_t name = (unsigned char)copy[at] % 8, left = n - at, value = left > name ? (left - name) / 2 : 0;
        if (name > left)
            break;
        size_t more = put_variable(to, used, (struct text){copy + at, name}, (struct text){copy + at + name, value});
        must((more > 0) == (name > 0 && memchr(copy + at, '=', name) == NULL && memchr(copy + at, 0, name + value) == NULL),
             "a variable is taken, or not");
        must(more == 0 || more == used + VARIABLE_HEAD + name + 1 + value, "a variable has another length");
        used = more > 0 ? more : used;
        count += more > 0;
        at += name + value + 1;
    }
    // One that is as long as there is room, or a byte longer.
    static const char long_value[CALL_ROOM] = {[0 ... CALL_ROOM - 1] = 'v'};
    size_t room = CALL_ROOM - CALL_HEAD - COUNT - used - VARIABLE_HEAD - 2;
    must(put_variable(to, used, (struct text){"n", 1}, (struct text){long_value, room + 1}) == 0, "it has no room");
    must(put_variable(to, used, (struct text){"n", 1}, (struct text){long_value, room}) == CALL_ROOM - CALL_HEAD - COUNT, "it has room");
    struct call of = {.nonce = n, .timeout_ms = count, .flags = 2, .payload = {n % 2 == 0 ? copy : NULL, n % 2 == 0 ? n : 0}};
    size_t size = put_call(to, used, count, &of);
    must(size == CALL_HEAD + COUNT + used + of.payload.length, "a frame has another length");
    must(number_at(to + 4) == size - FRAME_HEAD && number_at(to + CALL_HEAD) == count, "a frame says another length");
    of.payload = (struct text){long_value, CALL_ROOM - CALL_HEAD - COUNT - used};
    must(put_call(to, used, count, &of) == CALL_ROOM, "a frame has room");
    of.payload.length++;
    must(put_call(to, used, count, &of) == 0, "a frame has no room");
    free(copy);
    free(to);
}

bool native_reply_run(const char *bytes, size_t n)
{
    char *copy = copy_of(bytes, n);
    uint64_t nonce = 0;
    struct reply found;
    if (n >= FRAME_HEAD + NONCE)
        memcpy(&nonce, copy + FRAME_HEAD, NONCE);
    bool taken = read_reply(copy, n, nonce, &found);
    if (taken) {
        must(found.output.at >= copy && found.output.at + found.output.length <= copy + n, "output is elsewhere");
        size_t frames = found.output.length > 0 ? FRAME_HEAD + NONCE + found.output.length : 0;
        must(n == frames + FRAME_HEAD + END_LENGTH + (found.is_clean ? FRAME_HEAD + NONCE : 0), "it has another length");
        must(!read_reply(copy, n, nonce + 1, &found), "it is of another invocation");
    }
    must(!is_clean(copy, n, nonce) || (n == FRAME_HEAD + NONCE && copy[0] == CLEAN && !taken), "it is clean without a reason");
    check_call(bytes, n);
    free(copy);
    return taken;
}
