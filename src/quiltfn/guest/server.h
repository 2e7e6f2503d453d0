// SPDX-License-Identifier: Apache-2.0
//
// A program that serves requests by itself, over sockets that the host asks for.

#pragma once

#include <stdbool.h>

// Starts it. `log` is then the end of the pipe that its outputs go to, for the host, or -1. Returns false
// with `failure` set.
bool server_start(int *log);

// Gives the host sockets until the server ends, tells that, and ends.
_Noreturn void serve_server(void);
