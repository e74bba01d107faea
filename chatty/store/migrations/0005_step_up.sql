-- compatible from: 4. When the user of a log-in session last proved who they are.
SET lock_timeout = '2s';
ALTER TABLE refresh_families ADD COLUMN stepped_up_at timestamptz NOT NULL DEFAULT now();
