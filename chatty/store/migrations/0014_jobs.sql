-- compatible from: 12. Background jobs as their operator sees them, and what is counted each day.
SET lock_timeout = '2s';

-- One row a job. order_number: of the newest order to run it now; begun_order: of the newest that was begun. abort_number: how often
-- the run in hand was to be cut off. notes: how far a job is that goes through everything, and what it found.
CREATE TABLE jobs (
    job text PRIMARY KEY,
    state text NOT NULL DEFAULT 'scheduled',
    interval_s double precision NOT NULL,
    failures_count integer NOT NULL DEFAULT 0,
    order_number bigint NOT NULL DEFAULT 0,
    begun_order bigint NOT NULL DEFAULT 0,
    abort_number bigint NOT NULL DEFAULT 0,
    notes jsonb NOT NULL DEFAULT '{}'
);

-- The newest of each job are kept. order_number: the order that it does; NULL: it was due.
CREATE TABLE job_runs (
    run_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job text NOT NULL,
    holder text NOT NULL,
    order_number bigint,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    outcome text NOT NULL,
    rows_count bigint NOT NULL,
    steps_count bigint NOT NULL,
    error_code text NOT NULL DEFAULT ''
);
CREATE INDEX job_runs_job ON job_runs (job, run_number);

-- Counts of a day (UTC), about nobody.
CREATE TABLE statistics (
    day date NOT NULL,
    name text NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (day, name)
);
