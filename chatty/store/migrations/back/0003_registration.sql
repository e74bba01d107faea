-- Names that look alike are free again; refused while somebody waits for an account.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM registration_requests) THEN
        RAISE EXCEPTION 'somebody waits for an account: chatty-admin users list --pending';
    END IF;
END $$;

DROP TABLE registration_requests;
ALTER TABLE users DROP COLUMN name_skeleton, DROP COLUMN rooms_created_count;
