-- compatible from: 12. What an operator wants to know: where the code failed, how large everything was on each day.
SET lock_timeout = '2s';

-- Places and counts, never what an exception said.
CREATE TABLE crashes (
    crash_id text PRIMARY KEY,
    module text NOT NULL,
    function text NOT NULL,
    line integer NOT NULL,
    kind text NOT NULL,
    met_in text NOT NULL,
    frames text[] NOT NULL,
    release text NOT NULL,
    count bigint NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL
);

-- day: UTC. bytes: tables, indexes and TOAST of a feature (store/sizes.py), when it was last looked at on that day.
CREATE TABLE size_samples (
    day date NOT NULL,
    feature text NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (day, feature)
);
