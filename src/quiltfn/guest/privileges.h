// SPDX-License-Identifier: Apache-2.0
//
// The users and privileges of the guest and of its handlers.

#pragma once

#include <stdbool.h>

enum { HANDLER_ID = 1000 }; // User and group of every handler.

// Whether the kernel is gVisor's.
extern bool in_gvisor;

void act_as_handler(void);
void act_as_guest(void);
// Call both at the start, in this order.
void let_zygote_inherit(void);
void drop_bounding_set(void);
