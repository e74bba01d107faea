-- State events of rooms do not name the one before; the next upgrade finds the newest again.
SET lock_timeout = '2s';

ALTER TABLE rooms DROP COLUMN state_seq;
