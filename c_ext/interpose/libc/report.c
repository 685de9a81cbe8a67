/*
 * libc/report.c - one write per message, so that messages of several processes do not mix.
 */
#include "interpose/libc/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "interpose/libc/symbols.h"

void tde_libc_report(const char *format, ...)
{
    char text[1024] = "tde: ";
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
        text[used++] = '\n';
        ssize_t ignored = tde_libc()->write(STDERR_FILENO, text, used);
        (void)ignored;
    }
    errno = saved;
}
