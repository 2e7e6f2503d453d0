// SPDX-License-Identifier: Apache-2.0
//
// Recognises ordinary requests that invoke a function. Rule: what this file does not know is not
// ordinary. It is never refused here: the server reads the same bytes again, with its complete
// parsers. What is ordinary means the same to them (tests/service/test_lane.py).

#include "request.h"

#include <string.h>
#include <strings.h>

// The bytes that are left to read.
struct rest {
    const char *at, *end;
};

static bool take(struct rest *from, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(from->end - from->at) < length || memcmp(from->at, word, length) != 0)
        return false;
    from->at += length;
    return true;
}

// Takes as many characters of `set` as there are. Returns whether there are any.
static bool take_all(struct rest *from, const char *set, struct text *to)
{
    to->at = from->at;
    while (from->at < from->end && *from->at != '\0' && strchr(set, *from->at) != NULL)
        from->at++;
    to->length = (size_t)(from->at - to->at);
    return to->length > 0;
}

static bool is(struct text text, const char *word)
{
    return text.length == strlen(word) && strncasecmp(text.at, word, text.length) == 0;
}

#define DIGITS "0123456789"
#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define WORD DIGITS LETTERS "._-"
enum { ID_LENGTH = 36, WORD_MAX = 128 };

static bool read_target(struct rest *from, struct request *to)
{
    if (!take(from, "POST /api/functions/"))
        return false;
    if (take(from, "invoke/")) {
        to->is_by_name = true;
        return take_all(from, WORD, &to->function) && to->function.length <= WORD_MAX && take(from, " HTTP/1.1\r\n");
    }
    to->is_by_name = false;
    return take_all(from, DIGITS "abcdef-", &to->function) && to->function.length == ID_LENGTH &&
        take(from, "/invoke HTTP/1.1\r\n");
}

// Takes the rest of a header's line: printable characters, without spaces at their ends.
static bool read_value(struct rest *from, struct text *to)
{
    take(from, " ");
    to->at = from->at;
    while (from->at < from->end && *from->at >= ' ' && *from->at <= '~')
        from->at++;
    to->length = (size_t)(from->at - to->at);
    return to->length > 0 && to->at[0] != ' ' && from->at[-1] != ' ' && take(from, "\r\n");
}

// The headers of ordinary requests, each at most once. The last four change nothing.
enum header {
    HOST,
    TYPE,
    LENGTH,
    KEY,
    BEARER,
    REQUEST_ID,
    ACCEPT,
    CONNECTION,
    AGENT,
    ENCODING,
    LANGUAGE,
    FETCH_MODE,
    HEADERS
};
static const char *const names[HEADERS] = {
    [HOST] = "host",
    [TYPE] = "content-type",
    [LENGTH] = "content-length",
    [KEY] = "x-api-key",
    [BEARER] = "authorization",
    [REQUEST_ID] = "x-request-id",
    [ACCEPT] = "accept",
    [CONNECTION] = "connection",
    [AGENT] = "user-agent",
    [ENCODING] = "accept-encoding",
    [LANGUAGE] = "accept-language",
    [FETCH_MODE] = "sec-fetch-mode",
};

static bool read_headers(struct rest *from, struct text headers[HEADERS])
{
    while (!take(from, "\r\n")) {
        struct text name, value;
        if (!take_all(from, LETTERS "-", &name) || !take(from, ":") || !read_value(from, &value))
            return false;
        int header = 0;
        while (header < HEADERS && !is(name, names[header]))
            header++;
        if (header == HEADERS || headers[header].at != NULL)
            return false;
        headers[header] = value;
    }
    return true;
}

static bool is_word(struct text text)
{
    struct rest from = {text.at, text.at + text.length};
    struct text all;
    return take_all(&from, WORD, &all) && all.length == text.length && text.length <= WORD_MAX;
}

// Whether the text is this number, of at most six digits.
static bool is_number(struct text text, size_t size)
{
    size_t length = 0;
    if (text.length > 6)
        return false;
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
        length = length * 10 + (size_t)(text.at[i] - '0');
    }
    return length == size;
}

bool is_utf8(const char *bytes, size_t length)
{
    const unsigned char *at = (const unsigned char *)bytes, *end = at + length;
    while (at < end) {
        if (*at < 0x80) {
            at++;
            continue;
        }
        size_t size = *at < 0xc2 ? 0 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : *at < 0xf5 ? 4 : 0;
        if (size == 0 || (size_t)(end - at) < size)
            return false;
        // The second byte excludes overlong forms, surrogates, and numbers above 10FFFF.
        unsigned char low = *at == 0xe0 ? 0xa0 : *at == 0xf0 ? 0x90 : 0x80;
        unsigned char high = *at == 0xed ? 0x9f : *at == 0xf4 ? 0x8f : 0xbf;
        if (at[1] < low || at[1] > high)
            return false;
        for (size_t i = 2; i < size; i++)
            if ((at[i] & 0xc0) != 0x80)
                return false;
        at += size;
    }
    return true;
}

// \u is not among them, so an ordinary payload has no NUL.
static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";

static bool read_string(struct rest *from, struct text *to)
{
    if (!take(from, "\""))
        return false;
    to->at = from->at;
    while (from->at < from->end && *from->at != '"') {
        if ((unsigned char)*from->at < ' ')
            return false;
        if (*from->at == '\\') {
            from->at++;
            if (from->at == from->end || *from->at == '\0' || strchr(escapes, *from->at) == NULL)
                return false;
        }
        from->at++;
    }
    to->length = (size_t)(from->at - to->at);
    return take(from, "\"") && is_utf8(to->at, to->length);
}

size_t unescape(struct text payload, char *to)
{
    size_t size = 0;
    for (size_t i = 0; i < payload.length; i++) {
        char byte = payload.at[i];
        to[size++] = byte == '\\' ? meanings[strchr(escapes, payload.at[++i]) - escapes] : byte;
    }
    return size;
}

static void skip_blanks(struct rest *from)
{
    struct text blanks;
    take_all(from, " \t\r\n", &blanks);
}

// {} or {"payload": "…"}
static bool read_body(struct rest *from, struct request *to)
{
    skip_blanks(from);
    if (!take(from, "{"))
        return false;
    skip_blanks(from);
    if (take(from, "\"payload\"")) {
        skip_blanks(from);
        if (!take(from, ":"))
            return false;
        skip_blanks(from);
        if (!read_string(from, &to->payload))
            return false;
        skip_blanks(from);
    }
    if (!take(from, "}"))
        return false;
    skip_blanks(from);
    return from->at == from->end;
}

// The headers about the body, which has `size` bytes, and about the connection.
static bool are_ordinary(const struct text headers[HEADERS], size_t size)
{
    struct text type = headers[TYPE], accept = headers[ACCEPT], connection = headers[CONNECTION];
    if (headers[LENGTH].at == NULL ? size > 0 : !is_number(headers[LENGTH], size))
        return false;
    if (type.at == NULL ? size > 0 : !is(type, "application/json"))
        return false;
    return (accept.at == NULL || is(accept, "*/*") || is(accept, "application/json")) &&
        (connection.at == NULL || is(connection, "keep-alive"));
}

// Finds the key in one of two headers. Returns false for both, and for one that is not ordinary.
static bool read_key(const struct text headers[HEADERS], struct text *to)
{
    struct text bearer = headers[BEARER];
    *to = headers[KEY];
    if (bearer.at == NULL)
        return true;
    *to = (struct text){bearer.at + 7, bearer.length - 7};
    return headers[KEY].at == NULL && bearer.length > 7 && strncasecmp(bearer.at, "bearer ", 7) == 0 && *to->at != ' ';
}

bool read_request(const char *bytes, size_t length, struct request *to)
{
    struct rest from = {bytes, bytes + length};
    struct text headers[HEADERS] = {{NULL, 0}};
    *to = (struct request){.is_by_name = false};
    if (!read_target(&from, to) || !read_headers(&from, headers) || headers[HOST].at == NULL)
        return false;
    size_t size = (size_t)(from.end - from.at);
    to->host = headers[HOST];
    to->request_id = headers[REQUEST_ID];
    if (!are_ordinary(headers, size) || !read_key(headers, &to->key))
        return false;
    if (to->request_id.at != NULL && !is_word(to->request_id))
        return false;
    return size == 0 || read_body(&from, to);
}
