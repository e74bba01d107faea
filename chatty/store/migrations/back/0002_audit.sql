-- Without the chain over the audit log; refused once something is signed, as it would be gone.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM audit_heads) THEN
        RAISE EXCEPTION 'heads of the audit log are signed, and they would be gone';
    END IF;
END $$;

DROP TABLE audit_heads, audit_seals;
DROP INDEX audit_unsealed, audit_addresses;
ALTER TABLE audit DROP COLUMN family, DROP COLUMN before, DROP COLUMN after, DROP COLUMN address, DROP COLUMN address_salt,
    DROP COLUMN address_hash, DROP COLUMN is_sealed;
