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

/* What is wrong, or NULL when the server has the master key of the message. */
static const char *take(const uint8_t *data, size_t length, struct tde_status *status)
{
    const struct tde_message_reader *reader = &tde_keys_scope()->reader;
    struct tde_key_scope master;
    const char *problem = tde_format_message_open(data, length, reader, &master);

    if (problem == NULL && tde_keys_slots_master(master.master_key_id) == NULL &&
        tde_keys_slots_add_master(&master) != 0)
        problem = "the memory of the keys cannot be written";
    if (problem == NULL)
        memcpy(status->master_key_id, master.master_key_id, sizeof status->master_key_id);
    tde_crypto_wipe(&master, sizeof master);
    return problem;
}

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
    if (number == atomic_load(&status->message) + 1) {
        problem = take(data, (size_t)length, status);
        if (problem == NULL)
            tde_libc_report("this server has the keystore's new master key");
        else
            tde_libc_report("refused a message with a master key: %s", problem);
        snprintf(status->message_problem, sizeof status->message_problem, "%s",
                 problem == NULL ? "" : problem);
        atomic_store(&status->message, number);
    }
    errno = saved;
}
