-- compatible from: 12. Invitation links of rooms, and rooms that everybody of the server may join.
SET lock_timeout = '2s';

-- What the room's signed events say about each link ever made; who made it stands in the event at made_seq. No secret is here.
CREATE TABLE room_links (
    room_number bigint NOT NULL,
    link text NOT NULL,
    made_seq bigint NOT NULL,
    expires_at bigint NOT NULL,
    uses_max bigint NOT NULL,
    uses_count bigint NOT NULL,
    is_revoked boolean NOT NULL,
    PRIMARY KEY (room_number, link)
);

-- Empty: not listed.
ALTER TABLE rooms ADD COLUMN public_title text NOT NULL DEFAULT '';
ALTER TABLE rooms ALTER public_title SET STATISTICS 0;
CREATE INDEX rooms_listed ON rooms (room_id) WHERE public_title <> '';
