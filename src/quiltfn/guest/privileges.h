// SPDX-License-Identifier: Apache-2.0
//
// Who the guest is, and who its handlers are.

#pragma once

#include <stdbool.h>

enum { HANDLER_ID = 1000 }; // User and group of every handler.

// Whether the kernel is gVisor's.
extern bool in_gvisor;

void act_as_handler(void);
void act_as_guest(void);
// Both at the start, and in this order.
void let_zygote_inherit(void);
void drop_bounding_set(void);
