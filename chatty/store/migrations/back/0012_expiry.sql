-- Refused once a message had an end, or was dropped: older code would show what it cannot explain.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM timeline WHERE ends <> 0 OR deletion_seq IS NOT NULL)
        OR EXISTS (SELECT 1 FROM rooms WHERE retention_days <> 0 OR horizon_seq <> 0) THEN
        RAISE EXCEPTION 'messages end or have ended, and older code cannot explain what is missing';
    END IF;
END $$;

DROP INDEX rooms_ending, rooms_unswept;
ALTER TABLE rooms DROP COLUMN retention_days, DROP COLUMN horizon_seq, DROP COLUMN horizon_head, DROP COLUMN horizon_before,
    DROP COLUMN horizon_time, DROP COLUMN horizon_key_id, DROP COLUMN horizon_signature, DROP COLUMN swept_seq;
ALTER TABLE timeline DROP COLUMN ends, DROP COLUMN deletion_seq;
DROP TABLE passing_bodies;
DROP SCHEMA passing CASCADE;
