-- Refused once a room has a link or is listed: the next upgrade could not tell who came in by it.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM room_links) OR EXISTS (SELECT 1 FROM rooms WHERE public_title <> '') THEN
        RAISE EXCEPTION 'rooms have invitation links or are listed, and the next upgrade could not make them anew';
    END IF;
END $$;

DROP TABLE room_links;
DROP INDEX rooms_listed;
ALTER TABLE rooms DROP COLUMN public_title;
