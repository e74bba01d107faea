-- compatible from: 4. What a user may do with the own account: blocks, export, deletion.
SET lock_timeout = '2s';

-- Whom a user does not want to hear from: nothing but the pair.
CREATE TABLE blocks (
    user_number bigint NOT NULL,
    blocked_number bigint NOT NULL,
    PRIMARY KEY (user_number, blocked_number)
);
CREATE INDEX blocks_blocked ON blocks (blocked_number);

-- All rooms that a user ever was in; members_user has only those of now.
CREATE INDEX members_ever ON members (user_number, room_number);

-- leaf: of an erased message, of which the chain needs nothing else; kind is then 'erased' and all but seq and head is empty.
ALTER TABLE timeline ADD COLUMN leaf bytea;
-- deletion_seq: the newest removal of a deleted account, which explains what is erased before it; 0: none.
ALTER TABLE rooms ADD COLUMN deletion_seq bigint NOT NULL DEFAULT 0;
