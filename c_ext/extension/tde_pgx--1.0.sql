\echo Use "CREATE EXTENSION tde_pgx" to load this file. \quit

-- Each is the function of tde itself and no wrapper: that would have the passphrase in a statement.
CREATE FUNCTION pgx_open_keystore(passphrase text) RETURNS void
    AS 'MODULE_PATHNAME', 'tde_open_keystore' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION pgx_set_master_key(passphrase text) RETURNS void
    AS 'MODULE_PATHNAME', 'tde_set_master_key' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION pgx_set_keystore_passphrase(old_passphrase text, new_passphrase text) RETURNS void
    AS 'MODULE_PATHNAME', 'tde_set_keystore_passphrase' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE VIEW pgx_tablespaces AS
    SELECT t.oid AS spctablespace,
           CASE WHEN t.encrypted
               THEN 'AES' || pg_catalog.split_part(t.algorithm, '-', 2) ELSE 'none' END
               AS spcencalgo
    FROM tde_tablespaces t;

REVOKE ALL ON FUNCTION pgx_open_keystore(text), pgx_set_master_key(text),
    pgx_set_keystore_passphrase(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgx_open_keystore(text), pgx_set_master_key(text),
    pgx_set_keystore_passphrase(text, text) TO tde_admin;
GRANT SELECT ON pgx_tablespaces TO tde_admin, pg_monitor;
