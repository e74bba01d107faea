-- compatible from: 12. Messages that end: their own expiry, deletion, retention; older code would show what it cannot explain.
SET lock_timeout = '2s';

-- Ciphertexts that have an end, apart from those that have none: whole days are dropped at once, and their bytes with them.
-- ends: ms since 1970. Partitions, a schema of their own, are made and dropped by the job message_cleanup; what comes before its day
-- was made goes into the default one and stays there, so that no send ever fails for want of a partition.
CREATE SCHEMA passing;
CREATE TABLE passing_bodies (
    ends bigint NOT NULL,
    room_number bigint NOT NULL,
    seq bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (ends, room_number, seq)
) PARTITION BY RANGE (ends);
CREATE TABLE passing.days_not_made PARTITION OF passing_bodies DEFAULT;
ALTER TABLE passing_bodies ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN body SET STATISTICS 0;
ALTER TABLE passing.days_not_made ALTER COLUMN body SET STORAGE EXTERNAL, ALTER COLUMN body SET STATISTICS 0;

-- ends: where the ciphertext lies; 0: in `bodies`. deletion_seq: where the deletion stands that took it out.
ALTER TABLE timeline ADD COLUMN ends bigint NOT NULL DEFAULT 0;
ALTER TABLE timeline ADD COLUMN deletion_seq bigint;

-- retention_days: the room's own policy; 0: none. The horizon: no message at or below it is kept. before: all of them were sent
-- before then; horizon_time: when it was written; both ms since 1970. swept_seq: up to there the rows are gone too.
ALTER TABLE rooms ADD COLUMN retention_days integer NOT NULL DEFAULT 0;
ALTER TABLE rooms ADD COLUMN horizon_seq bigint NOT NULL DEFAULT 0;
ALTER TABLE rooms ADD COLUMN horizon_head bytea;
ALTER TABLE rooms ADD COLUMN horizon_before bigint NOT NULL DEFAULT 0;
ALTER TABLE rooms ADD COLUMN horizon_time bigint NOT NULL DEFAULT 0;
ALTER TABLE rooms ADD COLUMN horizon_key_id text NOT NULL DEFAULT '';
ALTER TABLE rooms ADD COLUMN horizon_signature bytea;
ALTER TABLE rooms ADD COLUMN swept_seq bigint NOT NULL DEFAULT 0;
CREATE INDEX rooms_ending ON rooms (room_number) WHERE retention_days > 0 OR policy->>'message_timer_s' IS NOT NULL;
CREATE INDEX rooms_unswept ON rooms (room_number) WHERE swept_seq < horizon_seq;
ALTER TABLE rooms ALTER horizon_head SET STATISTICS 0, ALTER horizon_signature SET STATISTICS 0,
    ALTER horizon_key_id SET STATISTICS 0;
