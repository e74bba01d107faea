-- compatible from: 1. The first schema.
SET lock_timeout = '2s';

-- One row: who this database belongs to. The generation is raised by each restore from a backup.
CREATE TABLE server (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    server_name text NOT NULL,
    generation bigint NOT NULL,
    generation_id text NOT NULL
);

-- Secrets of the server, sealed under the master key: signing keys, MAC keys, data keys.
CREATE TABLE sealed_keys (
    purpose text NOT NULL,
    version integer NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (purpose, version)
);

CREATE TABLE users (
    user_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL UNIQUE,
    role text NOT NULL,
    login_key_sealed bytea NOT NULL,
    key_derivation jsonb NOT NULL,
    identity_key text NOT NULL,
    wrapped_recovery bytea NOT NULL,
    wrapped_identity bytea NOT NULL,
    list_version bigint NOT NULL DEFAULT 0,
    list_digest bytea NOT NULL,
    stream_seq bigint NOT NULL DEFAULT 0,
    is_locked boolean NOT NULL DEFAULT false,
    created_day date NOT NULL DEFAULT current_date
);

CREATE TABLE registration_tokens (
    token_hash bytea PRIMARY KEY,
    role text NOT NULL,
    uses_left integer NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE devices (
    device_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id text NOT NULL UNIQUE,
    user_number bigint NOT NULL REFERENCES users,
    name text NOT NULL,
    keys jsonb,
    curve25519 text,
    ed25519 text,
    in_set boolean NOT NULL DEFAULT false,
    is_live boolean NOT NULL DEFAULT true,
    last_seen_day date NOT NULL DEFAULT current_date
);
CREATE INDEX devices_user ON devices (user_number);

-- What a device may send, in a table of its own: the journal locks these rows, nothing else waits for them.
-- Made with the device and kept after its death, so that SKIP LOCKED can tell locked from missing.
CREATE TABLE device_send (
    device_number bigint PRIMARY KEY,
    low bigint NOT NULL DEFAULT 1,
    highest_n bigint NOT NULL DEFAULT 0,
    is_live boolean NOT NULL DEFAULT true
) WITH (fillfactor = 50);

-- (device, n) names one request for ever; rows below low are deleted. Exactly one outcome: a place in a room's order,
-- a final refusal, or the answer of another durable write.
CREATE TABLE requests (
    device_number bigint NOT NULL,
    n bigint NOT NULL,
    digest bytea NOT NULL,
    room_number bigint,
    seq bigint,
    time bigint,
    leaf bytea,
    refusal text,
    answer bytea,
    PRIMARY KEY (device_number, n)
);

-- A log-in session: a family of refresh tokens, each a function of the one before; only the counter is kept.
CREATE TABLE refresh_families (
    family_id text PRIMARY KEY,
    device_number bigint NOT NULL REFERENCES devices,
    k bigint NOT NULL DEFAULT 1,
    dpop_thumbprint text NOT NULL DEFAULT '',
    is_revoked boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    refreshed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX refresh_families_device ON refresh_families (device_number);

-- A claimed one-time key leaves its row, so that it can never be handed out again.
CREATE TABLE one_time_keys (
    device_number bigint NOT NULL,
    key_id text NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    key_json text,
    key_hash bytea NOT NULL,
    PRIMARY KEY (device_number, key_id)
);
CREATE INDEX one_time_keys_unclaimed ON one_time_keys (device_number, position) WHERE key_json IS NOT NULL;

CREATE TABLE fallback_keys (
    device_number bigint NOT NULL,
    algorithm text NOT NULL,
    key_id text NOT NULL,
    key_json text NOT NULL,
    is_used boolean NOT NULL DEFAULT false,
    PRIMARY KEY (device_number, algorithm)
);

-- A set, not a sequence: acknowledged by exact ids.
CREATE TABLE mailbox (
    mailbox_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_number bigint NOT NULL,
    sender_device_number bigint NOT NULL,
    n bigint NOT NULL,
    kind text NOT NULL,
    content text NOT NULL
);
CREATE INDEX mailbox_device ON mailbox (device_number, mailbox_id);
CREATE INDEX mailbox_sender ON mailbox (device_number, sender_device_number);

CREATE TABLE user_stream (
    user_number bigint NOT NULL,
    seq bigint NOT NULL,
    time bigint NOT NULL,
    kind text NOT NULL,
    content text NOT NULL,
    PRIMARY KEY (user_number, seq)
);

-- seq, head, epoch and last_time change with each event, under this row's lock and by nothing else.
CREATE TABLE rooms (
    room_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room_id text NOT NULL UNIQUE,
    seq bigint NOT NULL,
    head bytea NOT NULL,
    epoch bigint NOT NULL,
    last_time bigint NOT NULL,
    policy jsonb NOT NULL,
    create_body bytea NOT NULL,
    direct_pair text UNIQUE
) WITH (fillfactor = 50);

-- What the chain says about each user now; see wire/authority.py.
CREATE TABLE members (
    room_number bigint NOT NULL,
    user_number bigint NOT NULL,
    standing text NOT NULL,
    role text NOT NULL,
    changed_seq bigint NOT NULL,
    removed_seq bigint NOT NULL,
    list_version bigint NOT NULL,
    list_digest text NOT NULL,
    identity text NOT NULL,
    PRIMARY KEY (room_number, user_number)
);
CREATE INDEX members_user ON members (user_number, room_number) WHERE standing = 'joined';

-- Which stretches of a room a user may read; to_seq NULL: still inside.
CREATE TABLE member_intervals (
    room_number bigint NOT NULL,
    user_number bigint NOT NULL,
    from_seq bigint NOT NULL,
    to_seq bigint,
    PRIMARY KEY (room_number, user_number, from_seq)
);

-- What the chain needs of each event, never partitioned. No foreign keys: they lock devices and double the cost.
CREATE TABLE timeline (
    room_number bigint NOT NULL,
    seq bigint NOT NULL,
    time bigint NOT NULL,
    kind text NOT NULL,
    sender_number bigint,
    device_number bigint,
    n bigint NOT NULL,
    algorithm text NOT NULL,
    session_id text NOT NULL,
    epoch bigint NOT NULL,
    silent boolean NOT NULL,
    expiry bigint NOT NULL,
    target text NOT NULL,
    signature bytea NOT NULL,
    body_hash bytea NOT NULL,
    head bytea NOT NULL,
    PRIMARY KEY (room_number, seq)
);

-- Ciphertexts and state contents, apart from the timeline so that they can go while the chain stays.
CREATE TABLE bodies (
    room_number bigint NOT NULL,
    seq bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (room_number, seq)
);
ALTER TABLE bodies ALTER COLUMN body SET STORAGE EXTERNAL;

-- A device change owes a devices event to each room of its user: written by the journal or the janitor's job.
CREATE TABLE owed_devices (
    room_number bigint NOT NULL,
    user_number bigint NOT NULL,
    list_version bigint NOT NULL,
    PRIMARY KEY (room_number, user_number, list_version)
);

-- Polled by every node twice a second: closes the sockets of what was revoked. Rows live ten minutes.
CREATE TABLE revocations (
    revocation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_number bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX revocations_created ON revocations (created_at);

CREATE TABLE leases (
    job text PRIMARY KEY,
    holder text NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Rows are inserted in the acting transaction; sealing and addresses come with the audit feature.
CREATE TABLE audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    device text NOT NULL,
    action text NOT NULL,
    object text NOT NULL,
    detail jsonb NOT NULL,
    request_id text NOT NULL
);
