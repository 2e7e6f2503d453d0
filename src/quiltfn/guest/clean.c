// SPDX-License-Identifier: Apache-2.0
//
// File systems and System V objects.

#include "clean.h"
#include "protocol.h"

#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/statfs.h>
#include <unistd.h>

const char *tmp_options, *shm_options;
// Further file systems that handlers may write to, like /tmp; the last entry is NULL.
char **writable;

// A new tmpfs uses one inode, for its root, and no block. A root directory whose entries were
// removed counts as new: the handler does not own it, and cannot change it otherwise.
bool touched(const char *path)
{
    struct statfs s;
    if (statfs(path, &s) != 0)
        _exit(NOT_CLEAN);
    return s.f_ffree != s.f_files - 1 || s.f_bfree != s.f_blocks;
}

// Mounts a new file system instead of deleting files: this is cheaper, a handler cannot delay it by
// deep trees or unusual modes, and the guest does not have to follow a handler's paths. It unmounts
// the old one first, so that its memory is free before the new one needs some.
void renew(const char *path, unsigned long flags, const char *options)
{
    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) != 0 ||
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV | flags, options) != 0)
        _exit(NOT_CLEAN);
}

union semun {
    int val;
    struct seminfo *info;
    struct semid_ds *set;
};

// How many System V objects exist, and the highest index in use of each kind.
unsigned long count_sysv(int highest[3])
{
    // Some kernels fill in only a part of a structure.
    struct shm_info shm = {0};
    struct seminfo sem = {0};
    struct msginfo msg = {0};
    highest[0] = shmctl(0, SHM_INFO, (struct shmid_ds *)(void *)&shm);
    highest[1] = semctl(0, 0, SEM_INFO, (union semun){.info = &sem});
    highest[2] = msgctl(0, MSG_INFO, (struct msqid_ds *)(void *)&msg);
    for (int i = 0; i < 3; i++)
        if (highest[i] < 0)
            _exit(NOT_CLEAN);
    return (unsigned long)shm.used_ids + (unsigned long)sem.semusz + (unsigned long)msg.msgpool;
}

// The _ANY commands, since a handler may have removed all permissions from its objects, and the
// guest has no capability to read them otherwise; SYS_ADMIN lets it remove them. Remaining objects
// would be a channel between invocations, and their memory would stay charged to the sandbox.
void remove_sysv(const int highest[3])
{
    struct shmid_ds shm;
    struct semid_ds sem;
    struct msqid_ds msg;
    for (int i = 0, id; i <= highest[0]; i++)
        if ((id = shmctl(i, SHM_STAT_ANY, &shm)) >= 0)
            shmctl(id, IPC_RMID, NULL);
    for (int i = 0, id; i <= highest[1]; i++)
        if ((id = semctl(i, 0, SEM_STAT_ANY, (union semun){.set = &sem})) >= 0)
            semctl(id, 0, IPC_RMID);
    for (int i = 0, id; i <= highest[2]; i++)
        if ((id = msgctl(i, MSG_STAT_ANY, &msg)) >= 0)
            msgctl(id, IPC_RMID, NULL);
    int ignored[3];
    if (count_sysv(ignored) != 0)
        _exit(NOT_CLEAN);
}
