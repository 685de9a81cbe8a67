/*
 * libc/report.c - one write per message, so that messages of several processes do not mix.
 */
#include "interpose/libc/report.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "interpose/libc/symbols.h"

#define LONGEST_TEXT (3 * PATH_MAX) /* two paths and words */

/* Names of files come from anybody, and must not begin a line of the log or steer a terminal. */
static void make_printable(char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            text[i] = '?';
}

/*
 * A pipe takes no more than PIPE_BUF bytes undivided.  What says what to do stands at the end of
 * a message, so of one that is too long the middle is left out.  Returns the new length.
 */
static size_t shorten(char *text, size_t length)
{
    static const char mark[] = " [...] ";
    const size_t most = PIPE_BUF - 1;
    size_t mark_length = sizeof mark - 1;
    const char *hint = strstr(text, "; HINT:");
    size_t end = hint == NULL ? 0 : length - (size_t)(hint - text);
    size_t begin;

    if (length <= most)
        return length;
    if (end > most / 2)
        end = most / 2;
    begin = most - mark_length - end;
    memcpy(text + begin, mark, mark_length);
    memmove(text + begin + mark_length, text + length - end, end);
    return most;
}

void tde_libc_report(const char *format, ...)
{
    char text[LONGEST_TEXT] = "tde: ";
    int saved = errno;
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(text + 5, sizeof text - 6, format, arguments);
    va_end(arguments);
    if (length > 0) {
        size_t used = shorten(text, strlen(text));

        make_printable(text, used);
        text[used++] = '\n';
        ssize_t ignored = tde_libc()->write(STDERR_FILENO, text, used);
        (void)ignored;
    }
    errno = saved;
}
