// SPDX-License-Identifier: Apache-2.0
//
// One invocation, from its CALL frame to CLEAN.

#pragma once

#include <stddef.h>

// Reads the rest of a CALL frame with this length, and serves the invocation.
void serve_call(size_t length);
