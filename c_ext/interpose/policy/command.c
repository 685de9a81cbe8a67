/*
 * policy/command.c - see policy/command.h.
 *
 * The commands are composed by getRestoreCommand and ensureCleanShutdown of pg_rewind.c, whose
 * words are quoted by appendShellString.
 */
#include "interpose/policy/command.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS 16u

/* The words of a command, one behind the other, each with its terminating zero. */
struct words {
    char text[4 * PATH_MAX];
    const char *word[WORDS];
    size_t count;
};

/* What appendShellString leaves without quotes, and what the commands have besides. */
static bool is_bare(char c)
{
    return c != '\0' && strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                               "0123456789-_./:=", c) != NULL;
}

/* Copy what is between quotes to *TO; behind them, or NULL when it could mean more to a shell. */
static const char *copy_quoted(const char *at, char **to, const char *end)
{
    char quote = *at++;

    for (; *at != quote; at++) {
        if (*at == '\0' || *to >= end || (quote == '"' && strchr("$`\\", *at) != NULL))
            return NULL;
        *(*to)++ = *at;
    }
    return at + 1;
}

/* Copy one word to *TO; behind it, or NULL. */
static const char *copy_word(const char *at, char **to, const char *end)
{
    while (at != NULL && *at != '\0' && *at != ' ') {
        if (*at == '\'' || *at == '"') {
            at = copy_quoted(at, to, end);
        } else if (is_bare(*at) && *to < end) {
            *(*to)++ = *at++;
        } else {
            return NULL;
        }
    }
    return at;
}

/*
 * Split a command as the shell would, as long as it is made of words, quotes around plain text, and
 * a "<" that stands alone.  False for whatever could mean more to a shell.
 */
static bool split(const char *at, struct words *words)
{
    const char *end = words->text + sizeof words->text - 1;
    char *to = words->text;

    words->count = 0;
    for (at += strspn(at, " "); *at != '\0'; at += strspn(at, " ")) {
        if (words->count == WORDS)
            return false;
        words->word[words->count++] = to;
        if (strncmp(at, "< ", 2) == 0 && to < end)
            *to++ = *at++;
        else
            at = copy_word(at, &to, end);
        if (at == NULL || to >= end)
            return false;
        *to++ = '\0';
    }
    return true;
}

static bool is_same(const char *one, const char *other)
{
    struct stat first;
    struct stat second;

    return stat(one, &first) == 0 && stat(other, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

static bool is_postgres_beside(const char *named)
{
    char own[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - sizeof "postgres");
    char *slash;

    own[length > 0 ? length : 0] = '\0';
    slash = strrchr(own, '/');
    if (slash == NULL)
        return false;
    strcpy(slash + 1, "postgres");
    return is_same(own, named);
}

/* Whether the words from *AT on are these; *AT is behind them then. */
static bool follow(const struct words *words, size_t *at, size_t count, const char *const *wanted)
{
    for (size_t i = 0; i < count; i++)
        if (*at + i >= words->count || strcmp(words->word[*at + i], wanted[i]) != 0)
            return false;
    *at += count;
    return true;
}

bool tde_policy_command_starts_postgres(const char *command, const char *target)
{
    static const char *const single[] = {"--single", "-F"};
    static const char *const asked[] = {"-C", "restore_command"};
    static const char *const recovered[] = {"template1", "<", "/dev/null"};
    static const char file[] = "config_file=";
    struct words words;
    bool recovers;
    size_t at = 1;

    if (!split(command, &words) || words.count < 4 || !is_postgres_beside(words.word[0]))
        return false;
    recovers = follow(&words, &at, 2, single);
    if (at + 2 > words.count || strcmp(words.word[at], "-D") != 0 ||
        !is_same(words.word[at + 1], target))
        return false;
    at += 2;
    if (at + 2 <= words.count && strcmp(words.word[at], "-c") == 0 &&
        strncmp(words.word[at + 1], file, sizeof file - 1) == 0)
        at += 2;
    return (recovers ? follow(&words, &at, 3, recovered) : follow(&words, &at, 2, asked)) &&
           at == words.count;
}
