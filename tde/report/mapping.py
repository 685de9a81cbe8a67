"""What a report shows for requirements of PCI DSS and NIST, and what it cannot show.

The requirements are told in our own words; the documents themselves are what counts. Nothing here
says that a requirement is met: that is for an assessor, who sees the rest of the organisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tde.report.model import Report, Section

PCI_DSS = "PCI DSS v4.0.1"
SP_800_57 = "NIST SP 800-57 Part 1 Rev. 5"
SP_800_38E = "NIST SP 800-38E"
SP_800_38D = "NIST SP 800-38D"
FIPS_140 = "FIPS 140-3"

BELOW_THE_DATABASE = (
    "Encryption below the database alone does not satisfy PCI DSS 3.5.1.2 for every use. The "
    "server decrypts for everybody who may query it, without being asked each time, and the "
    "applicability notes of that requirement count every such method with disk encryption: beyond "
    "removable media, PAN must be made unreadable by another mechanism as well."
)


@dataclass(frozen=True)
class Requirement:
    """One requirement.

    Attributes:
        asks: what it asks for, in our words.
        shows: what this report shows for it; empty when tde does nothing for it.
        sections: the chapters with the evidence.
        remains: what is left to the organisation.
    """

    number: str
    asks: str
    shows: str
    sections: tuple[Section, ...]
    remains: str


@dataclass(frozen=True)
class Standard:
    """The requirements of one document."""

    name: str
    requirements: tuple[Requirement, ...]


def mapping(report: Report) -> tuple[Standard, ...]:
    """Return the requirements that a report speaks to, with what it says."""
    return (
        Standard(PCI_DSS, tuple(_pci_dss(report))),
        Standard(SP_800_57, tuple(_sp_800_57(report))),
        Standard(SP_800_38E, tuple(_sp_800_38e())),
        Standard(SP_800_38D, tuple(_sp_800_38d(report))),
        Standard(FIPS_140, tuple(_fips_140(report))),
    )


def _pci_dss(report: Report) -> Iterator[Requirement]:
    yield Requirement(
        "3.5.1",
        "PAN cannot be read anywhere it is stored.",
        f"{_proof(report)} What is plaintext is listed.",
        (Section.PROOF, Section.PLAINTEXT),
        "Every other place that holds PAN: exports, dumps, logs, other systems. And 3.5.1.2.",
    )
    yield Requirement(
        "3.5.1.1",
        "Hashes that make PAN unreadable are keyed hashes of all of it.",
        "",
        (),
        "All of it: tde makes no hashes of PAN.",
    )
    yield Requirement(
        "3.5.1.2",
        "Encryption of disks or partitions counts only on removable media, or beside another "
        "mechanism. So does every method that gives PAN in clear while the system runs.",
        "Files, WAL, archives and backups that leave the machine are ciphertext. Whoever may query "
        "the running server reads PAN in clear.",
        (Section.PROOF,),
        "Make PAN unreadable inside the database as well where it is stored for more than the "
        "files are protected against: truncation, tokens, keyed hashes, encryption of fields.",
    )
    yield Requirement(
        "3.5.1.3",
        "Access to the decryption is managed apart from the operating system's accounts; keys are "
        "not tied to accounts; what opens them is kept safe.",
        f"The keystore opens by: {_ways(report)}. No account of the operating system and no role "
        "of the database opens it.",
        (Section.KEYS, Section.KEY_LOG),
        "Who knows the passphrase and where it is kept. root, and who may run code in the server, "
        "can read its memory.",
    )
    yield Requirement(
        "3.6.1",
        "Keys are protected: few custodians; key-encrypting keys as strong as the keys under them "
        "and stored apart from them; few places and forms.",
        "Data keys are wrapped with a 256-bit master key (AES-256-GCM), and that with a 256-bit "
        "key which is derived from the passphrase each time and never stored.",
        (Section.KEYS,),
        "A passphrase as hard to guess as the keys are strong. The keystore apart from data and "
        "backups, the passphrase apart from both.",
    )
    yield Requirement(
        "3.6.1.1",
        "Service providers describe the cryptographic architecture: algorithms, keys with strength "
        "and expiry, use of each key, devices; no key is shared by production and test.",
        "Algorithms, libraries, every key with its use and age.",
        (Section.CRYPTOGRAPHY, Section.KEYS),
        "Expiry dates by your policy. A copy of this keystore in a test environment shares its "
        "keys.",
    )
    yield Requirement(
        "3.6.1.2",
        "Stored keys are wrapped by a key at least as strong and stored apart, or lie in a secure "
        "cryptographic device, or are split into components.",
        f"{_opening_keys(report)}",
        (Section.KEYS,),
        _apart(report),
    )
    yield Requirement(
        "3.6.1.3",
        "As few custodians as possible have key components in clear.",
        "Who has opened, changed and copied the keystore. No command shows a key in clear.",
        (Section.KEY_LOG,),
        "The list of those who know the passphrase, or may read a file that opens it.",
    )
    yield Requirement(
        "3.6.1.4",
        "Keys are stored in as few places as possible.",
        "The place of the keystore; copies and backups that tde has made of it.",
        (Section.KEYS, Section.KEY_LOG),
        "Copies that other programs have made, and backups of the machine.",
    )
    yield Requirement(
        "3.7.1",
        "Strong keys are generated.",
        "Each key is drawn from the kernel's random generator, for AES with 128 or 256 bits; those "
        "of tablespaces made in SQL are derived from such a key by HKDF.",
        (Section.KEYS,),
        "The choice of AES-128 or AES-256.",
    )
    yield Requirement(
        "3.7.2",
        "Keys are distributed securely.",
        "Keys travel between keystores wrapped, and to running servers sealed (X25519, "
        "AES-256-GCM).",
        (Section.KEY_LOG,),
        "How a copy of the keystore and its passphrase get to another machine, apart.",
    )
    yield Requirement(
        "3.7.3",
        "Keys are stored securely.",
        "As 3.6.1.2; only the owner may read the keystore, or the chapter on the machine says who.",
        (Section.KEYS, Section.MACHINE),
        "Backups of the keystore.",
    )
    yield Requirement(
        "3.7.4",
        "Keys are changed at the end of their cryptoperiod.",
        f"{_ages(report)} Rotations are listed.",
        (Section.KEYS, Section.KEY_LOG),
        "A cryptoperiod for each kind of key, and its reasons.",
    )
    yield Requirement(
        "3.7.5",
        "Keys are retired, replaced or destroyed when they are weakened, known or at their end, "
        "and do not encrypt any more.",
        f"{_retired(report)} What is written has an active key.",
        (Section.KEYS,),
        "Backups and archives with old keys: for how long they are kept, and their destruction.",
    )
    yield Requirement(
        "3.7.6",
        "Where people handle keys in clear, knowledge is split and control is dual.",
        "No operation of tde gives a person a key in clear.",
        (Section.KEYS,),
        "Who knows the passphrase opens the keystore alone.",
    )
    yield Requirement(
        "3.7.7",
        "Keys cannot be substituted without authorisation.",
        "Each record is bound to keystore, owner, algorithm and master key. "
        f"{_substituted(report)}",
        (Section.KEYS, Section.KEY_LOG),
        "Who may write to the keystore and to the data directory.",
    )
    yield Requirement(
        "3.7.8",
        "Custodians acknowledge their responsibilities formally.",
        "",
        (),
        "All of it.",
    )
    yield Requirement(
        "3.7.9",
        "Service providers that share keys with customers give them guidance.",
        "",
        (),
        "All of it.",
    )


def _sp_800_57(report: Report) -> Iterator[Requirement]:
    yield Requirement(
        "7",
        "Keys have states: pre-activation, active, suspended, deactivated, compromised, destroyed.",
        f"The state of each key, by what this cluster does with it. {_retired(report)}",
        (Section.KEYS,),
        "To declare a key compromised, and to act on it.",
    )
    yield Requirement(
        "5.3",
        "Keys have cryptoperiods. For keys that encrypt data or wrap keys, up to two years of use "
        "for encryption are suggested.",
        _ages(report),
        (Section.KEYS,),
        "Cryptoperiods that fit your risks and amounts of data.",
    )


def _sp_800_38e() -> Iterator[Requirement]:
    yield Requirement(
        "4",
        "XTS-AES protects data on storage devices. A data unit has at most 2²⁰ blocks of 128 bits.",
        "XTS-AES-128 or XTS-AES-256. One data unit is a block of 8 KiB: 512 blocks. Its tweak is "
        "the block's identity, so that no two places of a key share one. The last 1 to 15 bytes of "
        "a temporary file are masked with AES and not with XTS.",
        (Section.PROOF, Section.CRYPTOGRAPHY),
        "",
    )
    yield Requirement(
        "–",
        "XTS-AES gives confidentiality; it authenticates neither data nor its source.",
        "Blocks can be put back in an older version, or damaged, by who may write to the disk. "
        "Checksums of PostgreSQL notice accidents.",
        (Section.MACHINE,),
        "Integrity: dm-integrity or authenticated storage beneath, standbys to compare with.",
    )


def _sp_800_38d(report: Report) -> Iterator[Requirement]:
    yield Requirement(
        "8",
        "With random 96-bit nonces, AES-GCM is used at most 2³² times under one key.",
        f"The master key wraps {_count(len(report.keys), 'key')}, each with a random nonce, and "
        "once more in each rotation a new master key does.",
        (Section.KEYS,),
        "",
    )


def _fips_140(report: Report) -> Iterator[Requirement]:
    server = [library for library in report.libraries if library.provider][:1]
    if not server:
        shows = "The provider is not known."
    elif server[0].fips:
        shows = f"The server's AES-XTS comes from the provider {server[0].provider}."
    else:
        shows = (
            f"The server's AES-XTS comes from the provider {server[0].provider}, which is no FIPS "
            "provider."
        )
    yield Requirement(
        "–",
        "Approved algorithms run in a validated module.",
        f"{shows} The keystore's Argon2id is no approved algorithm.",
        (Section.CRYPTOGRAPHY,),
        "Whether that build is on the list of validated modules.",
    )
    yield Requirement(
        "IG C.I",
        "The two halves of an XTS key differ, which is checked.",
        "Each new key is checked before it is stored.",
        (Section.KEYS,),
        "",
    )


def _proof(report: Report) -> str:
    if report.audit is None:
        return "Nothing was proven: the files were not examined."
    if not report.audit.clean:
        return "Every file was examined, and not all is as it should be."
    return "Every block of every encrypted file was examined, and is ciphertext."


def _ways(report: Report) -> str:
    ways = () if report.keystore is None else report.keystore.ways
    return ", ".join(way.name for way in ways) or "not known"


def _opening_keys(report: Report) -> str:
    bad = sum(bool(key.problem) for key in report.keys)
    if not report.keys:
        return "The keys were not examined."
    opened = "Every key is wrapped with AES-256-GCM and opens with the master key."
    return opened if not bad else f"Keys that do not open: {bad:,} of {len(report.keys):,}."


def _apart(report: Report) -> str:
    automatic = report.keystore is not None and len(report.keystore.ways) > 1
    words = "The master key lies, wrapped, in the same directory as the keys."
    if automatic:
        words += " What else opens it besides the passphrase has to be kept as safe as the keys."
    return words


def _ages(report: Report) -> str:
    dated = sum(key.age_days is not None for key in report.keys)
    overdue = sum(bool(key.age_problem) for key in report.keys)
    words = f"Keys of known age: {dated:,} of {len(report.keys):,}."
    return f"{words} Beyond their limit: {overdue:,}." if overdue else words


def _retired(report: Report) -> str:
    retired = sum(key.state == "deactivated" for key in report.keys)
    return f"Deactivated keys: {retired:,}."


def _substituted(report: Report) -> str:
    if report.key_log is None:
        return "The key log was not examined."
    if report.key_log.problems:
        return "The key log was altered."
    return "The key log is whole: each entry is bound to the one before."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
