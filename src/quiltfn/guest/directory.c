// SPDX-License-Identifier: Apache-2.0
//
// The working directory, as far as a handler may choose it.

#include "directory.h"
#include "frames.h"
#include "privileges.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool lies_in(const char *path, const char *tree)
{
    size_t n = strlen(tree);
    return strncmp(path, tree, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool forbidden(const char *path)
{
    return lies_in(path, "/proc") || lies_in(path, "/sys") || lies_in(path, "/dev");
}

// Checks the working directory by entering it with the handler's rights. After that, its real name
// is used: symbolic links are followed only here, and cannot lead elsewhere later. The real name of
// a directory outside the sandbox's root is "(unreachable)/...", hence the check for '/'.
int prove_cwd(const char **why)
{
    static char real[PATH_MAX];
    *why = "could not be entered in the sandbox";
    if (special.cwd[0] != '/') {
        *why = "is not an absolute path";
        return EINVAL;
    }
    if (forbidden(special.cwd)) {
        *why = "must not be in /proc, /sys or /dev";
        return EINVAL;
    }
    act_as_handler();
    int error = chdir(special.cwd) != 0 ? errno : 0;
    if (error == 0 && syscall(SYS_getcwd, real, sizeof real) < 0)
        error = errno;
    if (chdir("/") != 0)
        _exit(BROKEN);
    act_as_guest();
    if (error == ENOENT)
        *why = "does not exist in the sandbox";
    if (error == ENOTDIR)
        *why = "is not a directory in the sandbox";
    if (error == EACCES)
        *why = "cannot be entered by the handler's user";
    if (error == 0 && (real[0] != '/' || forbidden(real))) {
        *why = "leads out of the directories that a handler can use";
        error = EINVAL;
    }
    // After an error, the message still needs the name from the user.
    if (error == 0)
        special.cwd = real;
    return error;
}
