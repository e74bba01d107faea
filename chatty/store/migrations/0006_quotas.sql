-- compatible from: 4. Log-in sessions that are over are found without reading all of them.
SET lock_timeout = '2s';
CREATE INDEX refresh_families_living ON refresh_families (refreshed_at) WHERE NOT is_revoked;
