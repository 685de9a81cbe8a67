/*
 * policy/messages.c - see policy/messages.h, and docs/format.md, section 12.
 */
#include "interpose/policy/messages.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crypto/primitives.h"
#include "format/message.h"
#include "interpose/blocks/status.h"
#include "interpose/keys/slots.h"
#include "interpose/keys/wal.h"
#include "interpose/keys/withheld.h"
#include "interpose/libc/report.h"
#include "interpose/libc/symbols.h"
#include "interpose/libc/transfer.h"

/* The message that lies beside the status; its length, or -1 when there is none for us. */
static ssize_t read_message(uint8_t data[TDE_MESSAGE_SIZE + 1])
{
    char path[PATH_MAX + sizeof ".message"];
    ssize_t length = -1;
    struct stat status;
    int fd;

    snprintf(path, sizeof path, "%s.message", tde_blocks_status_path());
    fd = tde_libc()->open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -1;
    /* The directory is everybody's.  A message of others would be refused, but not be told. */
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        (status.st_uid == geteuid() || status.st_uid == 0))
        length = tde_libc_read_fully(fd, data, TDE_MESSAGE_SIZE + 1, 0);
    tde_libc()->close(fd);
    return length;
}

static const char *take_master_key(const struct tde_message *message, struct tde_status *status)
{
    struct tde_key_scope master;
    const char *problem = NULL;

    memcpy(master.keystore, tde_keys_scope()->scope.keystore, sizeof master.keystore);
    memcpy(master.master_key_id, message->key_id, sizeof master.master_key_id);
    memcpy(master.master_key, message->key, sizeof master.master_key);
    if (tde_keys_slots_master(master.master_key_id) == NULL &&
        tde_keys_slots_add_master(&master) != 0)
        problem = "the memory of the keys cannot be written";
    tde_crypto_wipe(&master, sizeof master);
    if (problem == NULL) {
        memcpy(status->master_key_id, message->key_id, sizeof status->master_key_id);
        tde_libc_report("this server has the keystore's new master key");
    }
    return problem;
}

void tde_policy_messages_publish_wal_key(void)
{
    struct tde_status *status = tde_blocks_status_own();

    if (status != NULL)
        tde_keys_wal_newest(status->wal_key_id, &status->wal_key_from);
}

static const char *take_wal_key(const struct tde_message *message)
{
    const char *problem = tde_keys_wal_switch(message->key_id);

    tde_policy_messages_publish_wal_key();
    if (problem == NULL)
        tde_libc_report("this server writes WAL with its new key from the next segment on that "
                        "nobody has opened yet");
    return problem;
}

static const char *take_withheld(const struct tde_message *message, struct tde_status *status)
{
    bool withholds = message->kind == TDE_MESSAGE_WITHHOLD;
    const char *problem = NULL;

    if (message->oid == 0) {
        tde_keys_withheld_close(withholds);
        tde_libc_report("the keystore of this server is %s", withholds ? "closed" : "open");
    } else if (withholds && !tde_keys_withheld_lock(message->oid)) {
        problem = "too many tablespaces are locked";
    } else {
        if (!withholds)
            tde_keys_withheld_unlock(message->oid);
        tde_libc_report("tablespace %u is %s", message->oid, withholds ? "locked" : "unlocked");
    }
    status->closed = tde_keys_withheld_list(status->locked, TDE_STATUS_LOCKED);
    return problem;
}

/* What is wrong, or NULL when the server has done what the message says. */
static const char *take(const uint8_t *data, size_t length, struct tde_status *status)
{
    struct tde_message message;
    const char *problem = tde_format_message_open(data, length, &tde_keys_scope()->reader,
                                                  &message);

    if (problem == NULL && message.kind == TDE_MESSAGE_MASTER_KEY)
        problem = take_master_key(&message, status);
    else if (problem == NULL && message.kind == TDE_MESSAGE_WAL_KEY)
        problem = take_wal_key(&message);
    else if (problem == NULL)
        problem = take_withheld(&message, status);
    tde_crypto_wipe(&message, sizeof message);
    return problem;
}

/*
 * The number of the last message.  What is published is a copy: programs of the server's user can
 * write that, and would have an old message looked at again.
 */
static uint64_t last;

void tde_policy_messages_receive(void)
{
    struct tde_status *status = tde_blocks_status_own();
    uint8_t data[TDE_MESSAGE_SIZE + 1];
    int saved = errno;
    const char *problem;
    uint64_t number;
    ssize_t length;

    if (status == NULL)
        return;
    length = read_message(data);
    number = length < 0 ? 0 : tde_format_message_number(data, (size_t)length);
    /*
     * It lies there until its sender has seen the answer, through more than one reload perhaps.
     * Numbers follow each other: a forged one must not use up all that are left.
     */
    if (number == last + 1) {
        last = number;
        problem = take(data, (size_t)length, status);
        if (problem != NULL)
            tde_libc_report("refused a message of tde: %s", problem);
        snprintf(status->message_problem, sizeof status->message_problem, "%s",
                 problem == NULL ? "" : problem);
        atomic_store(&status->message, last);
    }
    errno = saved;
}
