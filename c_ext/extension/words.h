/*
 * extension/words.h - what a client is told about a tablespace that it may not use.
 */
#ifndef TDE_EXTENSION_WORDS_H
#define TDE_EXTENSION_WORDS_H

/* Put our words in the place of those of the operating system; before the message is sent. */
void tde_extension_words(ErrorData *edata);

/* ERROR with these words when the keystore is closed. */
void tde_extension_require_open(void);

#endif
