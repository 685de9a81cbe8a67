/*
 * extension/messages.h - messages of our own, told from others by their domain; included last.
 *
 * What is logged about a statement with a passphrase is changed (extension/redact.h), but not what
 * we say ourselves, which holds none.
 */
#ifndef TDE_EXTENSION_MESSAGES_H
#define TDE_EXTENSION_MESSAGES_H

#define TDE_EXTENSION_DOMAIN "tde"

#undef TEXTDOMAIN
#define TEXTDOMAIN TDE_EXTENSION_DOMAIN

#endif
