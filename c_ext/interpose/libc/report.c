/*
 * libc/report.c - one write per message, so that messages of several processes do not mix.
 */
#include "interpose/libc/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "interpose/libc/symbols.h"

/* Long enough for two paths and the hint behind them; short enough to be written in one piece. */
#define LONGEST 4096

/* Names of files come from anybody, and must not begin a line of the log or steer a terminal. */
static void make_printable(char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            text[i] = '?';
}

void tde_libc_report(const char *format, ...)
{
    char text[LONGEST] = "tde: ";
    int saved = errno;
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(text + 5, sizeof text - 6, format, arguments);
    va_end(arguments);
    if (length > 0) {
        size_t used = 5 + (size_t)length;

        if (used > sizeof text - 2)
            used = sizeof text - 2;
        make_printable(text, used);
        text[used++] = '\n';
        ssize_t ignored = tde_libc()->write(STDERR_FILENO, text, used);
        (void)ignored;
    }
    errno = saved;
}
