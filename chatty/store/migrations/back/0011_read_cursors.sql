-- How far everybody has read is forgotten; refused while somebody hides, which older code does not know.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM users WHERE NOT shows_presence OR NOT shows_receipts) THEN
        RAISE EXCEPTION 'users hide their presence or receipts, and older code does not know it';
    END IF;
END $$;

DROP TABLE read_cursors;
ALTER TABLE users DROP COLUMN shows_presence, DROP COLUMN shows_receipts;
