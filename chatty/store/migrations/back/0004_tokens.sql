-- Refresh tokens of older code; a key that waits for its turn is gone.
SET lock_timeout = '2s';

DELETE FROM sealed_keys WHERE signs_from > clock_timestamp();
ALTER TABLE sealed_keys DROP COLUMN signs_from;
ALTER TABLE refresh_families DROP COLUMN is_used, DROP COLUMN retired_ms, DROP COLUMN generation, DROP COLUMN warned_at;
