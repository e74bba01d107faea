-- compatible from: 8. Each state event names the one before it, so that none can be hidden in a gap.
SET lock_timeout = '2s';

-- Seq of the room's newest create, member, policy or devices event.
ALTER TABLE rooms ADD COLUMN state_seq bigint NOT NULL DEFAULT 0;
UPDATE rooms SET state_seq = newest.seq FROM (
    SELECT room_number, max(seq) AS seq FROM timeline WHERE kind IN ('create', 'member', 'policy', 'devices') GROUP BY 1
) newest WHERE newest.room_number = rooms.room_number;
