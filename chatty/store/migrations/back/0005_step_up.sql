-- Nobody has stepped up.
SET lock_timeout = '2s';

ALTER TABLE refresh_families DROP COLUMN stepped_up_at;
