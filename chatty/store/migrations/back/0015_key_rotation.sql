-- Refused once a key that others rely on was replaced or revoked: older code knows one of each, and would take a revoked one.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM key_successions) OR EXISTS (
        SELECT 1 FROM sealed_keys WHERE is_public OR revoked_at IS NOT NULL OR purpose = 'next_data_key'
            OR (version > 1 AND purpose NOT IN ('signing_key', 'data_key', 'nonce_key'))
    ) THEN
        RAISE EXCEPTION 'keys of the server were replaced or revoked, and older code knows one of each';
    END IF;
END $$;

DROP TABLE key_successions, key_rotations;
ALTER TABLE sealed_keys DROP COLUMN is_public, DROP COLUMN revoked_at;
