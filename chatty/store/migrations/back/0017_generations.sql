-- Refused once the server went on from a backup: older code would not tell returning clients how far it went back.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM room_restorations) OR EXISTS (SELECT 1 FROM server WHERE generation > 1) THEN
        RAISE EXCEPTION 'the server went on from a backup, and older code cannot tell its clients';
    END IF;
END $$;

DROP TABLE room_restorations;
