-- compatible from: 4. Refresh tokens that mend a lost answer and see a reuse; signing keys that take turns.
SET lock_timeout = '2s';

-- is_used: k, or an access token issued with it, was seen. retired_ms: when the newest retired tokens retired (services/tokens.py).
-- generation: the server's, when k was last heard of from a client. warned_at: when its user was last told of a wrong key.
ALTER TABLE refresh_families
    ADD COLUMN is_used boolean NOT NULL DEFAULT false,
    ADD COLUMN retired_ms bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN generation bigint NOT NULL DEFAULT 1,
    ADD COLUMN warned_at timestamptz;
-- Log-in sessions from before tokens were bound to a key cannot go on.
UPDATE refresh_families SET is_revoked = true WHERE dpop_thumbprint = '';

-- From when on a signing key signs; before, it is only published and verifies.
ALTER TABLE sealed_keys ADD COLUMN signs_from timestamptz NOT NULL DEFAULT now();
