// SPDX-License-Identifier: Apache-2.0
//
// Ids and capabilities.

#include "privileges.h"
#include "protocol.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

bool in_gvisor;

// Files that a handler must be able to open again by name (/dev/stdout is /proc/self/fd/1) have to
// be created with its ids. This sets effective ids instead of using setfsuid, which does not report
// errors and is missing in some supported kernels. The real and saved ids stay 0, so no handler may
// signal the guest, and the return to 0 restores the capabilities.
void act_as_handler(void)
{
    if (syscall(SYS_setresgid, -1, HANDLER_ID, -1) != 0 ||
        syscall(SYS_setresuid, -1, HANDLER_ID, -1) != 0)
        _exit(BROKEN);
}

void act_as_guest(void)
{
    if (syscall(SYS_setresuid, -1, 0, -1) != 0 || syscall(SYS_setresgid, -1, 0, -1) != 0)
        _exit(BROKEN);
}

// Handlers inherit pid 1's bounding set, so pid 1 empties it. The guest loses nothing, since its
// permitted set stays. SETPCAP goes last because dropping needs it.
void drop_bounding_set(void)
{
    int held;
    unsigned long cap = 0;
    while ((held = prctl(PR_CAPBSET_READ, cap, 0, 0, 0)) >= 0) {
        if (held > 0 && cap != CAP_SETPCAP && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0)
            _exit(BAD_START);
        cap++;
    }
    if (errno != EINVAL || cap <= CAP_SETPCAP) // EINVAL: the kernel has no such capability.
        _exit(BAD_START);
    held = prctl(PR_CAPBSET_READ, CAP_SETPCAP, 0, 0, 0);
    if (held != 0 && prctl(PR_CAPBSET_DROP, CAP_SETPCAP, 0, 0, 0) != 0)
        _exit(BAD_START);
}

// Makes the capabilities inheritable that the zygote needs to give its forks a handler's ids. This
// has to happen while the bounding set has them; the start of each handler removes them again.
void let_zygote_inherit(void)
{
    struct __user_cap_header_struct version = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
    if (syscall(SYS_capget, &version, sets) != 0)
        _exit(BAD_START);
    sets[0].inheritable |= 1U << CAP_SETUID | 1U << CAP_SETGID;
    if (syscall(SYS_capset, &version, sets) != 0)
        _exit(BAD_START);
}
