-- compatible from: 10. What a user may do with the own account: blocks, export, deletion; older code cannot read erased messages.
SET lock_timeout = '2s';

-- Whom a user does not want to hear from: nothing but the pair.
CREATE TABLE blocks (
    user_number bigint NOT NULL,
    blocked_number bigint NOT NULL,
    PRIMARY KEY (user_number, blocked_number)
);
CREATE INDEX blocks_blocked ON blocks (blocked_number);

-- All rooms that a user ever was in; members_user has only those of now.
CREATE INDEX members_ever ON members (user_number, room_number);

-- leaf: of an erased message, of which the chain needs nothing else; kind is then 'erased' and all but seq and head is empty.
ALTER TABLE timeline ADD COLUMN leaf bytea;
-- deletion_seq: the newest removal of a deleted account, which explains what is erased before it; 0: none.
ALTER TABLE rooms ADD COLUMN deletion_seq bigint NOT NULL DEFAULT 0;

-- An account that is deleted: it opens nothing any more. Its row goes with the rest, unless signed room events hang on it.
ALTER TABLE users ADD COLUMN is_deleted boolean NOT NULL DEFAULT false;

-- What nobody may be called any more: SHA-256 of the user ids of deleted accounts, and of their names' skeletons.
CREATE TABLE erased_names (
    user_hash bytea PRIMARY KEY,
    skeleton_hash bytea NOT NULL
);
CREATE INDEX erased_names_skeleton ON erased_names (skeleton_hash);

-- A deletion under way, then its receipt. user_number: NULL once finished. stage, place: how far it is (services/deletions.py).
-- signers: ids of the devices whose signatures stay in rooms. counts: rows erased and kept, by store.
CREATE TABLE deletions (
    receipt_hash bytea PRIMARY KEY,
    user_number bigint UNIQUE,
    stage integer NOT NULL DEFAULT 0,
    place bigint NOT NULL DEFAULT 0,
    signers text[] NOT NULL DEFAULT '{}',
    counts jsonb NOT NULL DEFAULT '{}',
    began_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

-- Rooms that a deleted account was in. removal_seq: where the server's removal stands; next_seq: up to there all is erased.
CREATE TABLE erasures (
    room_number bigint NOT NULL,
    user_number bigint NOT NULL,
    removal_seq bigint,
    next_seq bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (room_number, user_number)
);
CREATE INDEX erasures_user ON erasures (user_number);
CREATE INDEX erasures_untold ON erasures (room_number) WHERE removal_seq IS NULL;

-- Invitations by who sent them: they go with the sender's account.
CREATE INDEX user_stream_inviters ON user_stream ((content::jsonb #>> '{invitation,signed,sender}')) WHERE kind = 'invitation';

-- PostgreSQL's statistics keep samples of what stands in a column, also after the row is gone. Of these columns it shall have none:
-- what identifies somebody, what somebody published, what somebody wrote (tests/store/test_deletions.py).
ALTER TABLE users ALTER user_id SET STATISTICS 0, ALTER name_skeleton SET STATISTICS 0, ALTER login_key_sealed SET STATISTICS 0,
    ALTER key_derivation SET STATISTICS 0, ALTER identity_key SET STATISTICS 0, ALTER wrapped_recovery SET STATISTICS 0,
    ALTER wrapped_identity SET STATISTICS 0, ALTER list_digest SET STATISTICS 0;
ALTER TABLE devices ALTER device_id SET STATISTICS 0, ALTER name SET STATISTICS 0, ALTER keys SET STATISTICS 0,
    ALTER curve25519 SET STATISTICS 0, ALTER ed25519 SET STATISTICS 0;
ALTER TABLE registration_requests ALTER user_id SET STATISTICS 0, ALTER name_skeleton SET STATISTICS 0,
    ALTER login_key_sealed SET STATISTICS 0, ALTER key_derivation SET STATISTICS 0, ALTER identity_key SET STATISTICS 0,
    ALTER wrapped_recovery SET STATISTICS 0, ALTER wrapped_identity SET STATISTICS 0;
ALTER TABLE totp_secrets ALTER secret_sealed SET STATISTICS 0;
ALTER TABLE recovery_codes ALTER code_hash SET STATISTICS 0;
ALTER TABLE passkeys ALTER credential_id SET STATISTICS 0, ALTER public_key SET STATISTICS 0, ALTER name SET STATISTICS 0,
    ALTER wrapped_recovery SET STATISTICS 0;
ALTER TABLE registration_tokens ALTER token_hash SET STATISTICS 0;
ALTER TABLE refresh_families ALTER family_id SET STATISTICS 0, ALTER dpop_thumbprint SET STATISTICS 0;
ALTER TABLE one_time_keys ALTER key_id SET STATISTICS 0, ALTER key_json SET STATISTICS 0, ALTER key_hash SET STATISTICS 0;
ALTER TABLE fallback_keys ALTER key_id SET STATISTICS 0, ALTER key_json SET STATISTICS 0;
ALTER TABLE requests ALTER digest SET STATISTICS 0, ALTER leaf SET STATISTICS 0, ALTER refusal SET STATISTICS 0,
    ALTER answer SET STATISTICS 0;
ALTER TABLE mailbox ALTER content SET STATISTICS 0;
ALTER TABLE user_stream ALTER content SET STATISTICS 0;
ALTER INDEX user_stream_inviters ALTER COLUMN 1 SET STATISTICS 0;
ALTER TABLE members ALTER list_digest SET STATISTICS 0, ALTER identity SET STATISTICS 0;
ALTER TABLE timeline ALTER session_id SET STATISTICS 0, ALTER target SET STATISTICS 0, ALTER signature SET STATISTICS 0,
    ALTER body_hash SET STATISTICS 0;
ALTER TABLE bodies ALTER body SET STATISTICS 0;
ALTER TABLE rooms ALTER room_id SET STATISTICS 0, ALTER create_body SET STATISTICS 0, ALTER direct_pair SET STATISTICS 0;
ALTER TABLE audit ALTER actor SET STATISTICS 0, ALTER device SET STATISTICS 0, ALTER object SET STATISTICS 0,
    ALTER detail SET STATISTICS 0, ALTER before SET STATISTICS 0, ALTER after SET STATISTICS 0, ALTER family SET STATISTICS 0,
    ALTER address SET STATISTICS 0, ALTER address_salt SET STATISTICS 0, ALTER address_hash SET STATISTICS 0;
