-- compatible from: 10. How far each user has read each room; what users let others see.
SET lock_timeout = '2s';

-- Never goes back. Written at most once a second for each; no foreign keys, as for all that is written with the messages.
CREATE TABLE read_cursors (
    room_number bigint NOT NULL,
    user_number bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (room_number, user_number)
) WITH (fillfactor = 50);
CREATE INDEX read_cursors_user ON read_cursors (user_number);

ALTER TABLE users ADD COLUMN shows_presence boolean NOT NULL DEFAULT true, ADD COLUMN shows_receipts boolean NOT NULL DEFAULT true;
