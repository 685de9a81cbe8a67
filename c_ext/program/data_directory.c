/*
 * program/data_directory.c - see program/data_directory.h.
 *
 * PostgreSQL's programs take a directory that has only postgresql.conf for a data directory, and
 * pg_upgradecluster names such ones.  Lines are read as guc-file.l reads them; what an include has
 * is not looked for, because data_directory stands in the first file of a cluster.
 */
#include "program/data_directory.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program/settings.h"

#define NAME "data_directory"

static const char *skip_blanks(const char *at)
{
    while (*at == ' ' || *at == '\t' || *at == '\r')
        at++;
    return at;
}

/* The value in quotes that begins behind AT, in which two quotes stand for one. */
static bool take_quoted(const char *at, char to[PATH_MAX])
{
    size_t length = 0;

    for (; *at != '\0' && length < PATH_MAX - 1; at++) {
        if (*at == '\\')
            return false; /* No path of a cluster needs one. */
        if (*at == '\'' && *++at != '\'') {
            to[length] = '\0';
            return true;
        }
        to[length++] = *at;
    }
    return false;
}

/* The value of data_directory, if it is what LINE sets. */
static bool take(const char *line, char to[PATH_MAX])
{
    size_t length;

    line = skip_blanks(line);
    if (strncasecmp(line, NAME, sizeof NAME - 1) != 0)
        return false;
    line += sizeof NAME - 1;
    if (isalnum((unsigned char)*line) || *line == '_' || *line == '.')
        return false;
    line = skip_blanks(line);
    if (*line == '=')
        line = skip_blanks(line + 1);
    if (*line == '\'')
        return take_quoted(line + 1, to);
    length = strcspn(line, " \t\r\n#'=");
    if (length == 0 || length >= PATH_MAX)
        return false;
    memcpy(to, line, length);
    to[length] = '\0';
    return true;
}

/* A file that can be read to its end; a pipe that somebody has put there would be waited for. */
static FILE *open_regular(const char *path)
{
    struct stat status;
    FILE *file = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
        file = fdopen(fd, "r");
    if (file == NULL && fd >= 0)
        close(fd);
    return file;
}

const char *tde_program_data_directory(const char *directory, char to[PATH_MAX])
{
    char path[PATH_MAX];
    char line[PATH_MAX + 64];
    char found[PATH_MAX];
    bool is_set = false;
    bool is_beginning = true; /* or what follows in a line that is longer than any of a path */
    FILE *file;

    if (tde_program_path(path, directory, "PG_VERSION") != 0 || access(path, F_OK) == 0 ||
        tde_program_path(path, directory, "postgresql.conf") != 0)
        return directory;
    file = open_regular(path);
    if (file == NULL)
        return directory;
    for (; fgets(line, sizeof line, file) != NULL; is_beginning = strchr(line, '\n') != NULL)
        if (is_beginning && take(line, found)) {
            memcpy(to, found, strlen(found) + 1); /* The last line counts. */
            is_set = true;
        }
    fclose(file);
    return is_set && to[0] == '/' ? to : directory;
}
