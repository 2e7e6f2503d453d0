// SPDX-License-Identifier: Apache-2.0
//
// A web server: a program that serves requests over sockets that the host asks for.

#pragma once

#include <stdbool.h>

// Starts the server. Sets `log` to the reading end of the pipe with its output, for the host, or to
// -1. On failure returns false with `failure` set.
bool server_start(int *log);

// Sends sockets to the host until the server ends; reports that, and exits.
_Noreturn void serve_server(void);
