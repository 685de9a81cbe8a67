/*
 * libc/report.h - messages of the interposer, on standard error (the server's log).
 */
#ifndef TDE_INTERPOSE_LIBC_REPORT_H
#define TDE_INTERPOSE_LIBC_REPORT_H

/* Write "tde: MESSAGE\n"; keeps errno. */
void tde_libc_report(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
