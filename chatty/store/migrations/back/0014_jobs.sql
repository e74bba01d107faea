-- The state and the history of background jobs, and the counts of past days, are forgotten: what was paused runs again.
SET lock_timeout = '2s';

DROP TABLE jobs, job_runs, statistics;
