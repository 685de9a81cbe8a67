"""Every error that tde raises on purpose, in one hierarchy.

The command line prints the message, then the remedy as a hint, and exits with
``exit_code``; a library user catches :class:`TdeError` or one of its subclasses.
"""

from __future__ import annotations

from tde.printable import printable_lines


class TdeError(Exception):
    """Base of all errors of this package.

    Args:
        message: what happened and to which file, in plain words.
        remedy: what the operator can do about it; empty when there is nothing to do.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        # Names of files may hold bytes that steer a terminal, and messages reach logs as well.
        super().__init__(printable_lines(message))
        self.remedy = printable_lines(remedy)


class UnsafeDirectoryError(TdeError):
    """Root would have to give a directory away in a place that others control."""


# Page cryptography.


class PageError(TdeError, ValueError):
    """The arguments of a page operation cannot be used."""


class KeyLengthError(PageError):
    """The key does not have the length that the algorithm needs."""


class BufferLengthError(PageError):
    """A buffer is not a whole number of pages, or two buffers differ in length."""


class IdentityError(PageError):
    """A page identity has a field outside its range."""


# Keystore.


class KeystoreError(TdeError):
    """The keystore cannot be created, opened or used."""

    exit_code = 5


class KeystoreMissingError(KeystoreError):
    """There is no keystore at the given path."""


class KeystoreExistsError(KeystoreError):
    """Something is already at the place where a keystore or a key would be created."""


class KeystorePermissionError(KeystoreError):
    """The keystore, or a passphrase file, is open to others or belongs to somebody else."""


class KeystoreReadOnlyError(KeystoreError):
    """The keystore can be opened here, and nothing can be changed in it."""


class KeystoreDamagedError(KeystoreError):
    """A file of the keystore is not what tde wrote: truncated, altered or swapped."""


class KeystoreVersionError(KeystoreError):
    """A file of the keystore has a format version that this release does not know."""


class KeystoreBusyError(KeystoreError):
    """Another process kept the keystore locked for too long."""


class KeystoreClosedError(KeystoreError):
    """A key was asked of a keystore whose master key is not in memory."""

    def __init__(self) -> None:
        super().__init__(
            "could not encrypt or decrypt data because the keystore is not open",
            remedy="Open the existing keystore, or set the master encryption key to create "
            "and open a new keystore",
        )


class KdfParametersError(KeystoreError):
    """The cost of the key derivation is outside the accepted bounds."""


class PassphraseError(KeystoreError):
    """No usable passphrase could be obtained."""


class WrongPassphraseError(PassphraseError):
    """The passphrase does not open this keystore."""


class ProviderError(KeystoreError):
    """A provider did not wrap or unwrap a key."""


class ProviderUnreachableError(ProviderError):
    """A provider gave no answer; a later attempt may succeed."""


class ProviderRefusedError(ProviderError):
    """A provider answered, and would not: no right, no such key, or not what it has wrapped."""


class KeyMissingError(KeystoreError):
    """The keystore has no key record for the WAL or for a tablespace."""


class PlaintextEntryError(KeystoreError):
    """A key was asked for a tablespace that is recorded as not encrypted."""


# Reports.


class ReportError(TdeError):
    """A report cannot be made, or is not as it was sealed."""


# PostgreSQL integration.


class PostgresError(TdeError):
    """A PostgreSQL program or server cannot be found, started or used."""


class BinariesNotFoundError(PostgresError):
    """No usable PostgreSQL installation, or an installation without a needed program."""


class OsUserError(PostgresError):
    """The operating-system user for the server cannot be determined or used."""


class UnreachablePathError(PostgresError):
    """The server's user may not reach a file that the server needs."""


class DataDirectoryError(PostgresError):
    """The data directory is not what the operation needs."""


class ConfigurationFileError(DataDirectoryError):
    """The configuration file that a cluster's server uses is missing, or cannot be changed."""


class NoDataDirectoryError(DataDirectoryError):
    """There is no PostgreSQL data directory at the given path."""

    exit_code = 4  # As pg_ctl status.


class UnsupportedServerError(PostgresError):
    """The server was built or configured in a way that encryption cannot support."""


class ServerNotRunningError(PostgresError):
    """The operation needs a running server."""

    exit_code = 3  # As pg_ctl status.


class ServerStartError(PostgresError):
    """The server did not start; the message ends with the last lines of its log."""


class ServerStillStartingError(ServerStartError):
    """The server was started and is alive, but did not accept connections in time."""


class ClusterBusyError(PostgresError):
    """Another tde command is starting, stopping or creating the same cluster."""


class ServerStopError(PostgresError):
    """The server did not stop."""


class InterposerError(PostgresError):
    """The interposer library is missing, or is not active in a server that needs it."""


class ClusterKeystoreError(PostgresError):
    """The keystore and the cluster do not belong together, or keys are missing."""

    exit_code = 5  # As every keystore error on the command line.


class KeyMapError(ClusterKeystoreError):
    """The file that says what key each tablespace has is missing, damaged or too old."""


class DamagedPagesError(PostgresError):
    """Pages of an encrypted cluster are not what the server wrote."""


class ConversionError(PostgresError):
    """A cluster cannot be encrypted or decrypted in place, or not be continued with."""


class ProgramError(PostgresError):
    """A PostgreSQL program such as initdb failed; the message holds what it printed."""


class ExtensionError(PostgresError):
    """The SQL extension cannot be built or installed."""


class BackupError(PostgresError):
    """A backup cannot be taken, is not what was taken, or cannot be restored."""


class ReplicationError(PostgresError):
    """A server cannot become, or have, what another one follows."""


class TablespaceError(PostgresError):
    """A tablespace cannot be created."""
