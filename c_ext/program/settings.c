/*
 * program/settings.c - read tde-bin.conf beside the running program.
 */
#include "program/settings.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INSTALL_AGAIN "Run again: tde pg install-bin"

void tde_program_error(const char *program, const char *hint, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "%s: error: ", program);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    if (hint != NULL)
        fprintf(stderr, "HINT: %s\n", hint);
}

int tde_program_path(char to[PATH_MAX], const char *directory, const char *name)
{
    int length = snprintf(to, PATH_MAX, "%s/%s", directory, name);

    return length > 0 && length < PATH_MAX ? 0 : -1;
}

/* /proc/self/exe tells the name that was run, because each name is a file of its own. */
static int locate(struct tde_program_settings *settings)
{
    ssize_t length = readlink("/proc/self/exe", settings->directory,
                              sizeof settings->directory - 1);
    char *slash;

    if (length <= 0)
        return -1;
    settings->directory[length] = '\0';
    slash = strrchr(settings->directory, '/');
    if (slash == NULL || strlen(slash + 1) > NAME_MAX)
        return -1;
    strcpy(settings->program, slash + 1);
    *slash = '\0';
    return 0;
}

static void take(struct tde_program_settings *settings, const char *name, const char *value)
{
    if (strcmp(name, "bindir") == 0)
        snprintf(settings->bindir, sizeof settings->bindir, "%s", value);
    else if (strcmp(name, "keystore") == 0)
        snprintf(settings->keystore, sizeof settings->keystore, "%s", value);
    else if (strcmp(name, "tde") == 0)
        snprintf(settings->tde, sizeof settings->tde, "%s", value);
    else if (strcmp(name, "postgres_size") == 0)
        settings->postgres_size = strtoll(value, NULL, 10);
    else if (strcmp(name, "postgres_mtime_ns") == 0)
        settings->postgres_mtime = strtoll(value, NULL, 10);
    else if (strcmp(name, "major") == 0)
        settings->major = atoi(value);
    else if (strcmp(name, "checksums") == 0)
        settings->adds_checksums = strcmp(value, "yes") == 0;
}

static int read_settings(struct tde_program_settings *settings)
{
    char path[PATH_MAX];
    char line[PATH_MAX + 64];
    FILE *file;

    if (tde_program_path(path, settings->directory, TDE_SETTINGS_FILE) != 0)
        return -1;
    file = fopen(path, "re");
    if (file == NULL) {
        tde_program_error(settings->program, INSTALL_AGAIN, "could not read %s: %s", path,
                          strerror(errno));
        return -1;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        char *equals = strchr(line, '=');

        line[strcspn(line, "\n")] = '\0';
        if (equals != NULL) {
            *equals = '\0';
            take(settings, line, equals + 1);
        }
    }
    fclose(file);
    if (settings->bindir[0] == '/')
        return 0;
    tde_program_error(settings->program, INSTALL_AGAIN, "%s does not name PostgreSQL's programs",
                      path);
    return -1;
}

int tde_program_settings_load(struct tde_program_settings *settings)
{
    memset(settings, 0, sizeof *settings);
    if (locate(settings) != 0) {
        tde_program_error("tde", NULL, "could not find out which program was started");
        return -1;
    }
    return read_settings(settings);
}
