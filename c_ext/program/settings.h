/*
 * program/settings.h - where the programs of a directory made by `tde pg install-bin` come from.
 */
#ifndef TDE_PROGRAM_SETTINGS_H
#define TDE_PROGRAM_SETTINGS_H

#include <limits.h>
#include <stdbool.h>

#define TDE_SETTINGS_FILE "tde-bin.conf"

struct tde_program_settings {
    char directory[PATH_MAX]; /* of the program that runs, links resolved */
    char program[NAME_MAX + 1];
    char bindir[PATH_MAX];   /* of PostgreSQL's own programs */
    char keystore[PATH_MAX]; /* empty: no cluster is encrypted */
    char tde[PATH_MAX];      /* the command, for keystores that open by a provider */
    const char *cluster;     /* that the program works on; NULL when there is none yet */
    long long postgres_size;  /* of the server that was checked at the installation */
    long long postgres_mtime; /* nanoseconds */
    int major;                /* of PostgreSQL; 0 in a directory of an earlier release */
    bool adds_checksums;      /* initdb turns data checksums on */
};

/* Print "program: error: MESSAGE" and, with HINT, what to do. */
void tde_program_error(const char *program, const char *hint, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* DIRECTORY/NAME; -1 when that is too long. */
int tde_program_path(char to[PATH_MAX], const char *directory, const char *name);

/* Fill SETTINGS for the running program.  0, or -1 after a message. */
int tde_program_settings_load(struct tde_program_settings *settings);

#endif
