/*
 * extension/process.h - a program that a backend starts, of which nothing is left afterwards.
 *
 * What a backend leaves behind becomes a child of the first process of the machine or container.  If
 * that is the postmaster, it takes an end by a signal for the crash of a session, and restarts all.
 */
#ifndef TDE_EXTENSION_PROCESS_H
#define TDE_EXTENSION_PROCESS_H

#include <sys/types.h>

struct tde_extension_process {
    pid_t pid;   /* its group has the same number; 0 when there is none of it left */
    int channel; /* a socket, whose other end is its standard input; each -1 when it is closed */
    int output;  /* a pipe from its standard output */
    int errors;  /* a file of memory with its standard error */
};

#define TDE_EXTENSION_NO_PROCESS {.pid = 0, .channel = -1, .output = -1, .errors = -1}

/* ERROR when it cannot be started.  WORDS and VARIABLES end with NULL. */
void tde_extension_process_start(struct tde_extension_process *process, char *const *words,
                                 char *const *variables);

/*
 * Read the message that can be read from the channel: a byte and the descriptor of another socket,
 * which takes the place of the channel.  Both are the program's own, made when nobody could look into
 * it any more.  The channel is closed when the program has ended; ERROR when another one has answered.
 */
void tde_extension_process_renew_channel(struct tde_extension_process *process);

/* Wait until it has ended, and return its status as waitpid does.  ERROR when cancelled. */
int tde_extension_process_wait(struct tde_extension_process *process);

/* End it if it runs, and whatever it has started; close what is open.  No error. */
void tde_extension_process_stop(struct tde_extension_process *process);

/* Close one descriptor of it. */
void tde_extension_process_close(int *fd);

#endif
