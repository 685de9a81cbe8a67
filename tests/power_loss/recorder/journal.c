/*
 * journal.c - see journal.h.
 */
#include "journal.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INODES (1u << 20)

static FILE *journal;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Numbers of files by inode.  An inode that is used again gets a new number. */
static struct {
    uint64_t inode;
    uint32_t number;
} numbers[INODES];
static uint32_t last_number;

static void put(const void *data, size_t length)
{
    /* Half a journal would look like a power cut that came earlier. */
    if (length > 0 && fwrite(data, 1, length, journal) != length) {
        perror("recorder: cannot write the journal");
        _exit(3);
    }
}

int journal_open(const char *path)
{
    journal = fopen(path, "wbe");
    if (journal == NULL)
        return -1;
    setvbuf(journal, NULL, _IOFBF, 1 << 20);
    put("TDEPOWR\1", 8);
    return 0;
}

void journal_close(void)
{
    if (fclose(journal) != 0) {
        perror("recorder: cannot write the journal");
        _exit(3);
    }
}

void journal_lock(void)
{
    pthread_mutex_lock(&lock);
}

int journal_unlock(int result)
{
    int answer = result < 0 ? -errno : result;

    pthread_mutex_unlock(&lock);
    return answer;
}

void journal_record(struct change change)
{
    struct __attribute__((packed)) {
        char what;
        uint32_t number;
        uint64_t a, b;
        uint16_t path, second;
        uint32_t data;
    } header = {change.what,
                change.number,
                change.a,
                change.b,
                (uint16_t)(change.path != NULL ? strlen(change.path) : 0),
                (uint16_t)(change.second != NULL ? strlen(change.second) : 0),
                (uint32_t)change.length};

    put(&header, sizeof header);
    put(change.path, header.path);
    put(change.second, header.second);
    put(change.data, change.length);
}

uint32_t journal_number(int fd, const char *path, int created)
{
    struct stat status;
    uint32_t at;

    if (fstat(fd, &status) != 0 || last_number >= INODES / 2) {
        fprintf(stderr, "recorder: too many files\n");
        _exit(3);
    }
    at = (uint32_t)((status.st_ino * 11400714819323198485ull) >> 44);
    while (numbers[at].inode != 0 && numbers[at].inode != status.st_ino)
        at = (at + 1) % INODES;
    if (created || numbers[at].number == 0) {
        numbers[at].inode = status.st_ino;
        numbers[at].number = ++last_number;
        if (!created)
            RECORD('k', numbers[at].number, .a = 0, .path = path);
    }
    return numbers[at].number;
}
