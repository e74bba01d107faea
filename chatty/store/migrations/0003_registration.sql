-- compatible from: 1. Names that look alike, applications, rooms counted by their maker.
SET lock_timeout = '2s';

-- The rule of services/names.py, for the names that are there. Of names alike already, the oldest keeps the others away.
ALTER TABLE users ADD COLUMN name_skeleton text, ADD COLUMN rooms_created_count bigint NOT NULL DEFAULT 0;
WITH bare AS (
    SELECT user_number, regexp_replace(split_part(substr(user_id, 2), ':', 1), '([0-9])[-_.]+(?=[0-9])', '\1~', 'g') AS name
    FROM users
), skeletons AS (
    SELECT user_number,
        replace(replace(translate(regexp_replace(name, '[-_.]+', '', 'g'), '01i', 'oll'), 'm', 'rn'), 'w', 'vv') AS skeleton
    FROM bare
), oldest AS (
    SELECT DISTINCT ON (skeleton) user_number, skeleton FROM skeletons ORDER BY skeleton, user_number
)
UPDATE users u SET name_skeleton = oldest.skeleton FROM oldest WHERE oldest.user_number = u.user_number;
CREATE UNIQUE INDEX users_name_skeleton ON users (name_skeleton);
UPDATE users u SET rooms_created_count = made.count FROM (
    SELECT convert_from(create_body, 'UTF8')::jsonb ->> 'creator' AS creator, count(*) AS count FROM rooms GROUP BY 1
) made WHERE made.creator = u.user_id;

-- Who wants an account and waits for an admin: no user yet, and several may want one name.
CREATE TABLE registration_requests (
    request_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL,
    name_skeleton text NOT NULL,
    login_key_sealed bytea NOT NULL,
    key_derivation jsonb NOT NULL,
    identity_key text NOT NULL,
    wrapped_recovery bytea NOT NULL,
    wrapped_identity bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX registration_requests_user ON registration_requests (user_id, request_number);
