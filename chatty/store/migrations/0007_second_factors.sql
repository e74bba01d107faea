-- compatible from: 7. Second factors; older code would let in whoever shows none.
SET lock_timeout = '2s';

-- At most two a user: the one that is there, and a pending one. last_step: the newest 30 s step whose code was taken.
CREATE TABLE totp_secrets (
    user_number bigint NOT NULL REFERENCES users,
    is_confirmed boolean NOT NULL,
    secret_sealed bytea NOT NULL,
    last_step bigint NOT NULL DEFAULT 0,
    added_day date NOT NULL DEFAULT current_date,
    PRIMARY KEY (user_number, is_confirmed)
);

-- Each is good once: a used one leaves no row.
CREATE TABLE recovery_codes (
    user_number bigint NOT NULL REFERENCES users,
    code_hash bytea NOT NULL,
    PRIMARY KEY (user_number, code_hash)
);

-- credential_id: base64url, as WebAuthn's clients show it; unique for its user alone, for a log-in names the user.
-- wrapped_recovery: opaque, made by the client.
CREATE TABLE passkeys (
    passkey_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_number bigint NOT NULL REFERENCES users,
    credential_id text NOT NULL,
    public_key bytea NOT NULL,
    sign_count bigint NOT NULL,
    transports text[] NOT NULL,
    name text NOT NULL,
    wrapped_recovery bytea,
    added_day date NOT NULL DEFAULT current_date
);
CREATE UNIQUE INDEX passkeys_user ON passkeys (user_number, credential_id);
