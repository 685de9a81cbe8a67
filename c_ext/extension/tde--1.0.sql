\echo Use "CREATE EXTENSION tde" to load this file. \quit

-- The role is of the whole cluster, so it stays when the extension is dropped.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'tde_admin') THEN
        RAISE NOTICE 'the role tde_admin exists already; its members may open and close the keystore';
    ELSE
        CREATE ROLE tde_admin NOLOGIN;
    END IF;
END
$$;

CREATE FUNCTION tde_open_keystore(passphrase text) RETURNS void
    AS 'MODULE_PATHNAME', 'tde_open_keystore' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION tde_close_keystore() RETURNS void
    AS 'MODULE_PATHNAME', 'tde_close_keystore' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION tde_set_master_key(passphrase text) RETURNS void
    AS 'MODULE_PATHNAME', 'tde_set_master_key' LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION tde_set_keystore_passphrase(old_passphrase text, new_passphrase text) RETURNS void
    AS 'MODULE_PATHNAME', 'tde_set_keystore_passphrase' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION tde_keystore_keys() RETURNS text
    AS 'MODULE_PATHNAME', 'tde_keystore_keys' LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
CREATE FUNCTION tde_tablespace_state(tablespace oid, OUT encrypted boolean, OUT algorithm text,
        OUT key_file text, OUT withheld text, OUT bytes_encrypted bigint, OUT bytes_decrypted bigint)
    AS 'MODULE_PATHNAME', 'tde_tablespace_state' LANGUAGE C STRICT VOLATILE PARALLEL SAFE;
CREATE FUNCTION tde_classes(OUT class text, OUT bytes_encrypted bigint, OUT bytes_decrypted bigint)
    RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'tde_classes' LANGUAGE C STRICT VOLATILE PARALLEL SAFE;

CREATE VIEW tde_tablespaces AS
    SELECT t.oid, t.spcname AS name, s.encrypted, s.algorithm, s.key_file, s.withheld
    FROM pg_catalog.pg_tablespace t, LATERAL tde_tablespace_state(t.oid) s;

CREATE VIEW tde_keys AS
    SELECT k.owner, k.algorithm, k.id, k.file
    FROM pg_catalog.jsonb_to_recordset(tde_keystore_keys()::pg_catalog.jsonb)
        AS k (owner text, algorithm text, id text, file text);

CREATE VIEW tde_activity AS
    SELECT 'relation' AS class, t.spcname AS tablespace, s.bytes_encrypted, s.bytes_decrypted
    FROM pg_catalog.pg_tablespace t, LATERAL tde_tablespace_state(t.oid) s
    WHERE s.encrypted
    UNION ALL
    SELECT c.class, NULL, c.bytes_encrypted, c.bytes_decrypted FROM tde_classes() c;

REVOKE ALL ON FUNCTION tde_open_keystore(text), tde_close_keystore(), tde_set_master_key(text),
    tde_set_keystore_passphrase(text, text), tde_keystore_keys(), tde_tablespace_state(oid),
    tde_classes() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tde_open_keystore(text), tde_close_keystore(), tde_set_master_key(text),
    tde_set_keystore_passphrase(text, text), tde_keystore_keys(), tde_tablespace_state(oid),
    tde_classes() TO tde_admin;
-- A view is read with the rights of its owner, but its functions are run with those of who reads it.
GRANT EXECUTE ON FUNCTION tde_keystore_keys(), tde_tablespace_state(oid), tde_classes() TO pg_monitor;
GRANT SELECT ON tde_tablespaces, tde_keys, tde_activity TO tde_admin, pg_monitor;
