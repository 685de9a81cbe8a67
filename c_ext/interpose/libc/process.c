/*
 * libc/process.c - see libc/process.h.
 */
#include "interpose/libc/process.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "interpose/libc/symbols.h"

#define START_TIME_FIELD 22

uint64_t tde_libc_start_time(void)
{
    char text[1024];
    int fd = tde_libc()->open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : tde_libc()->read(fd, text, sizeof text - 1);
    const char *at;

    if (fd >= 0)
        tde_libc()->close(fd);
    text[length > 0 ? length : 0] = '\0';
    at = strrchr(text, ')'); /* The second field is a name, which may hold anything. */
    for (int field = 2; at != NULL && field < START_TIME_FIELD; field++)
        at = strchr(at + 1, ' ');
    return at == NULL ? 0 : strtoull(at, NULL, 10);
}
