-- compatible from: 13. Every kind of key takes turns, and what was sealed under an old data key is sealed anew.
SET lock_timeout = '2s';

-- is_public: of a key that signs no more only the public half is kept, sealed so that nobody but the server can have put it there.
ALTER TABLE sealed_keys ADD COLUMN is_public boolean NOT NULL DEFAULT false, ADD COLUMN revoked_at timestamptz;

-- What a key that others rely on says of the one after it: a signed statement, public.
CREATE TABLE key_successions (
    purpose text NOT NULL,
    version integer NOT NULL,
    statement text NOT NULL,
    PRIMARY KEY (purpose, version)
);

-- Work on keys that takes longer than a transaction: where it stands, so that whoever goes on after a crash knows.
CREATE TABLE key_rotations (
    kind text PRIMARY KEY,
    version integer NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    store text NOT NULL DEFAULT '',
    place bigint NOT NULL DEFAULT 0,
    done_count bigint NOT NULL DEFAULT 0,
    total_count bigint NOT NULL DEFAULT 0
);
