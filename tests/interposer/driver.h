/*
 * driver.h - one script of file operations that is being run (see driver.c).
 */
#ifndef DRIVER_H
#define DRIVER_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _LARGEFILE64_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS 16
#define MAX_WORDS 64

struct run {
    FILE *script;
    FILE *output;
    int slot[SLOTS];
    char words[MAX_WORDS][4096];
    int count;
};

/* A command is found by the beginning of its name. */
struct command {
    const char *prefix;
    void (*run)(struct run *);
};

extern const struct command io_commands[];    /* driver_io.c: open, read and write */
extern const struct command other_commands[]; /* driver_other.c: everything else */

static inline int is(const char *word, const char *text)
{
    return strcmp(word, text) == 0;
}

static inline long number(struct run *run, int i)
{
    return i < run->count ? strtol(run->words[i], NULL, 0) : 0;
}

static inline int file(struct run *run, int i)
{
    return run->slot[number(run, i) % SLOTS];
}

/* Print what a call returned. */
static inline void result(struct run *run, long value)
{
    if (value < 0)
        fprintf(run->output, "%s: -1 %s\n", run->words[0], strerror(errno));
    else
        fprintf(run->output, "%s: %ld\n", run->words[0], value);
}

/* Print what a call returned that gives a descriptor, whose number says nothing. */
static inline void descriptor(struct run *run, int slot, int fd)
{
    run->slot[slot % SLOTS] = fd;
    result(run, fd < 0 ? fd : 0);
}

#endif
