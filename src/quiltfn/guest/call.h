// SPDX-License-Identifier: Apache-2.0
//
// One call, from its frame to CLEAN.

#pragma once

#include <stddef.h>

// Reads the rest of a CALL frame of that length, and serves it.
void serve_call(size_t length);
