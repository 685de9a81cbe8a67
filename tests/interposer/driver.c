/*
 * driver.c - runs a script of file operations and prints what each returned.
 *
 * The tests compile it under the name "postgres", run the same script with and without
 * the interposer and compare the output line by line: whatever a program can see of a
 * file must not change when the file is encrypted.  How the script is run is chosen at
 * compile time (IN_CONSTRUCTOR, IN_CHILD, IN_THREAD, IN_THREADS, IN_PROCESSES, IN_STEPS),
 * as is the spelling of the calls (FORTIFY, large files).
 *
 * A script line is "COMMAND ARGUMENT…"; files are named by slots 0 to 15.
 */
#include "driver.h"
#include "server_symbols.h"

#include <pthread.h>
#include <sys/wait.h>

static int exit_code(pid_t child)
{
    int status;

    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}

/* The rest of the script runs in a child that inherits the open files. */
static void go_on_in_child(struct run *run)
{
    pid_t child;

    fflush(run->output);
    child = fork();
    if (child != 0)
        exit(exit_code(child));
}

static void execute(struct run *run)
{
    const struct command *const tables[] = {io_commands, other_commands};

    if (is(run->words[0], "fork")) {
        go_on_in_child(run);
        return;
    }
    for (size_t i = 0; i < 2; i++)
        for (const struct command *at = tables[i]; at->prefix != NULL; at++)
            if (strncmp(run->words[0], at->prefix, strlen(at->prefix)) == 0) {
                at->run(run);
                return;
            }
    fprintf(run->output, "%s: no such command\n", run->words[0]);
}

static void run_line(struct run *run, char *line)
{
    char *state = NULL;

    run->count = 0;
    for (char *word = strtok_r(line, " \n", &state); word != NULL && run->count < MAX_WORDS;
         word = strtok_r(NULL, " \n", &state))
        snprintf(run->words[run->count++], sizeof run->words[0], "%s", word);
    if (run->count > 0)
        execute(run);
}

static int run_script(const char *path, FILE *output)
{
    struct run *run = calloc(1, sizeof *run);
    char line[65536];

    run->script = fopen(path, "r");
    run->output = output;
    if (run->script == NULL)
        return 1;
    while (fgets(line, sizeof line, run->script) != NULL)
        run_line(run, line);
    fclose(run->script);
    free(run);
    fflush(output);
    return 0;
}

/* Scripts that run at the same time write what they print to files: PATH.out. */
static __attribute__((unused)) void *run_to_file(void *path)
{
    char name[4096];
    FILE *output;

    snprintf(name, sizeof name, "%s.out", (const char *)path);
    output = fopen(name, "w");
    run_script(path, output);
    fclose(output);
    return NULL;
}

#if defined(IN_THREADS)
static int run_all(int count, char **paths)
{
    pthread_t threads[16];

    for (int i = 0; i < count; i++)
        pthread_create(&threads[i], NULL, run_to_file, paths[i]);
    for (int i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
#elif defined(IN_PROCESSES)
/* Scripts in front of "--" prepare what the others, each in a process of its own, begin with. */
static int run_all(int count, char **paths)
{
    pid_t children[16];
    int code = 0;
    int first = 0;

    for (int i = 0; i < count; i++)
        if (is(paths[i], "--"))
            first = i + 1;
    for (int i = 0; i + 1 < first; i++)
        run_to_file(paths[i]);
    for (int i = first; i < count; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            run_to_file(paths[i]);
            _exit(0);
        }
    }
    for (int i = first; i < count; i++)
        code |= exit_code(children[i]);
    return code;
}
#elif defined(IN_STEPS)
/*
 * A line begins with the number of the process that runs it, and the next line begins when
 * it is done: an interleaving that is the same each time.
 */
static void serve(struct run *run, int lines, int done)
{
    FILE *in = fdopen(lines, "r");
    char line[65536];

    while (fgets(line, sizeof line, in) != NULL) {
        run_line(run, line);
        fflush(run->output);
        if (write(done, "", 1) != 1)
            break;
    }
    _exit(0);
}

static int run_steps(const char *path)
{
    int lines[2][2];
    int done[2][2];
    char line[65536];
    char ignored;
    FILE *script = fopen(path, "r");

    for (int i = 0; i < 2; i++) {
        if (pipe(lines[i]) != 0 || pipe(done[i]) != 0)
            return 4;
        if (fork() == 0) {
            struct run *run = calloc(1, sizeof *run);

            for (int other = 0; other <= i; other++)
                close(lines[other][1]);
            run->output = stdout;
            serve(run, lines[i][0], done[i][1]);
        }
    }
    while (script != NULL && fgets(line, sizeof line, script) != NULL) {
        int who = line[0] - '0';
        size_t length = strlen(line + 2);

        if (write(lines[who][1], line + 2, length) != (ssize_t)length ||
            read(done[who][0], &ignored, 1) != 1)
            return 5;
    }
    for (int i = 0; i < 2; i++)
        close(lines[i][1]);
    while (wait(NULL) > 0)
        ;
    return script == NULL ? 1 : fclose(script);
}
#endif

#ifdef IN_CONSTRUCTOR
__attribute__((constructor)) static void early(int argc, char **argv)
{
    exit(argc > 1 ? run_script(argv[1], stdout) : 2);
}
#endif

static __attribute__((unused)) void *run_to_stdout(void *path)
{
    return run_script(path, stdout) == 0 ? NULL : path;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
#if defined(IN_THREADS) || defined(IN_PROCESSES)
    return run_all(argc - 1, argv + 1);
#elif defined(IN_STEPS)
    return run_steps(argv[1]);
#elif defined(IN_CHILD)
    pid_t child = fork();

    if (child == 0) {
        int code = run_script(argv[1], stdout);

        fflush(stdout);
        _exit(code);
    }
    return exit_code(child);
#elif defined(IN_THREAD)
    pthread_t thread;
    void *failed = argv;

    pthread_create(&thread, NULL, run_to_stdout, argv[1]);
    pthread_join(thread, &failed);
    return failed != NULL;
#else
    return run_to_stdout(argv[1]) != NULL;
#endif
}
