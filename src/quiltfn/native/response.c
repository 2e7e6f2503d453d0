// SPDX-License-Identifier: Apache-2.0
//
// Writes the response to an ordinary invocation, as api/call_response.py does.

#include "response.h"

#include <string.h>

static void put(char **to, struct text text)
{
    memcpy(*to, text.at, text.length);
    *to += text.length;
}

static void put_word(char **to, const char *word)
{
    size_t length = strlen(word);
    memcpy(*to, word, length);
    *to += length;
}

static void put_number(char **to, uint64_t number)
{
    char digits[20];
    int at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    put(to, (struct text){digits + at, sizeof digits - (size_t)at});
}

// Microseconds as milliseconds.
static void put_ms(char **to, uint64_t us)
{
    put_number(to, us / 1000);
    char rest[] = {'.', (char)('0' + us / 100 % 10), (char)('0' + us / 10 % 10), (char)('0' + us % 10)};
    put(to, (struct text){rest, sizeof rest});
}

// The letter that follows the backslash of an escape: 'u' if four digits follow, 0 if none is needed.
static char escape_of(char byte)
{
    switch (byte) {
    case '"':
    case '\\':
        return byte;
    case '\b':
        return 'b';
    case '\f':
        return 'f';
    case '\n':
        return 'n';
    case '\r':
        return 'r';
    case '\t':
        return 't';
    default:
        return (unsigned char)byte < ' ' ? 'u' : 0;
    }
}

static void put_string(char **to, const char *key, struct text text)
{
    put_word(to, key);
    for (size_t i = 0; i < text.length; i++) {
        char byte = text.at[i], escape = escape_of(byte);
        if (escape == 0) {
            *(*to)++ = byte;
            continue;
        }
        *(*to)++ = '\\';
        *(*to)++ = escape;
        if (escape == 'u') {
            char digits[] = {'0', '0', (char)('0' + byte / 16), "0123456789abcdef"[byte % 16]};
            put(to, (struct text){digits, sizeof digits});
        }
    }
    *(*to)++ = '"';
}

static void put_field(char **to, const char *key, uint64_t number)
{
    put_word(to, key);
    put_number(to, number);
}

static size_t write_body(const struct success *of, char *begin)
{
    char *to = begin;
    put_string(&to, "{\"invocation_id\":\"", of->invocation_id);
    put_string(&to, ",\"function_id\":\"", of->function_id);
    put_string(&to, ",\"function_name\":\"", of->function_name);
    put_string(&to, ",\"execution_node_id\":\"", of->node_id);
    put_field(&to, ",\"status\":\"success\",\"started_at\":", of->started_at);
    put_field(&to, ",\"ended_at\":", of->ended_at);
    put_field(&to, ",\"duration_ms\":", of->duration_ms);
    put_string(&to, ",\"exit_code\":0,\"stdout\":\"", of->out);
    put_string(&to, ",\"stderr\":\"", of->err);
    put_word(&to, ",\"error_message\":null,\"cold_start\":false}");
    return (size_t)(to - begin);
}

static size_t write_head(const struct success *of, size_t size, char *begin)
{
    char *to = begin;
    put(&to, of->begin);
    put_word(&to, "x-invocation-id: ");
    put(&to, of->invocation_id);
    put_field(&to, "\r\nx-function-version: ", of->version);
    put_word(&to, "\r\nserver-timing: queued;dur=");
    put_ms(&to, of->queued_us);
    put_word(&to, ", placed;dur=0.000, specialised;dur=0.000, ran;dur=");
    put_ms(&to, of->ran_us);
    put_word(&to, ", recorded;dur=");
    put_ms(&to, of->recorded_us);
    put_word(&to, "\r\ncontent-type: application/json\r\nx-request-id: ");
    put(&to, of->request_id);
    put_field(&to, "\r\ncontent-length: ", size);
    put_word(&to, "\r\n\r\n");
    return (size_t)(to - begin);
}

// Room for the fixed words and for the numbers, of the head and of the body.
enum { HEAD_ROOM = 512, BODY_ROOM = 512, ESCAPED_MAX = 6 };

static size_t head_room(const struct success *of)
{
    return HEAD_ROOM + of->begin.length + of->request_id.length + of->invocation_id.length;
}

size_t response_room(const struct success *of)
{
    size_t ids = of->invocation_id.length + of->function_id.length + of->node_id.length;
    size_t texts = ids + of->function_name.length + of->out.length + of->err.length;
    return head_room(of) + BODY_ROOM + ESCAPED_MAX * texts;
}

size_t write_response(const struct success *of, char *to)
{
    // The head contains the length of the body.
    char *body = to + head_room(of);
    size_t size = write_body(of, body);
    size_t head = write_head(of, size, to);
    memmove(to + head, body, size);
    return head + size;
}
