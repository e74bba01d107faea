-- Log-in sessions that are over are searched for among all.
SET lock_timeout = '2s';

DROP INDEX refresh_families_living;
