-- Refused once an account was deleted or somebody is blocked: older code cannot read what is left, and forgets who is blocked.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM deletions) OR EXISTS (SELECT 1 FROM erased_names) THEN
        RAISE EXCEPTION 'accounts were deleted, and older code cannot read what is left of them';
    END IF;
END $$;

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM blocks) THEN
        RAISE EXCEPTION 'users have blocked others, and older code does not know it';
    END IF;
END $$;

DROP INDEX members_ever, user_stream_inviters;
DROP TABLE erasures, deletions, erased_names, blocks;
ALTER TABLE timeline DROP COLUMN leaf;
ALTER TABLE rooms DROP COLUMN deletion_seq;
ALTER TABLE users DROP COLUMN is_deleted;

ALTER TABLE users ALTER user_id SET STATISTICS -1, ALTER name_skeleton SET STATISTICS -1, ALTER login_key_sealed SET STATISTICS -1,
    ALTER key_derivation SET STATISTICS -1, ALTER identity_key SET STATISTICS -1, ALTER wrapped_recovery SET STATISTICS -1,
    ALTER wrapped_identity SET STATISTICS -1, ALTER list_digest SET STATISTICS -1;
ALTER TABLE devices ALTER device_id SET STATISTICS -1, ALTER name SET STATISTICS -1, ALTER keys SET STATISTICS -1,
    ALTER curve25519 SET STATISTICS -1, ALTER ed25519 SET STATISTICS -1;
ALTER TABLE registration_requests ALTER user_id SET STATISTICS -1, ALTER name_skeleton SET STATISTICS -1,
    ALTER login_key_sealed SET STATISTICS -1, ALTER key_derivation SET STATISTICS -1, ALTER identity_key SET STATISTICS -1,
    ALTER wrapped_recovery SET STATISTICS -1, ALTER wrapped_identity SET STATISTICS -1;
ALTER TABLE totp_secrets ALTER secret_sealed SET STATISTICS -1;
ALTER TABLE recovery_codes ALTER code_hash SET STATISTICS -1;
ALTER TABLE passkeys ALTER credential_id SET STATISTICS -1, ALTER public_key SET STATISTICS -1, ALTER name SET STATISTICS -1,
    ALTER wrapped_recovery SET STATISTICS -1;
ALTER TABLE registration_tokens ALTER token_hash SET STATISTICS -1;
ALTER TABLE refresh_families ALTER family_id SET STATISTICS -1, ALTER dpop_thumbprint SET STATISTICS -1;
ALTER TABLE one_time_keys ALTER key_id SET STATISTICS -1, ALTER key_json SET STATISTICS -1, ALTER key_hash SET STATISTICS -1;
ALTER TABLE fallback_keys ALTER key_id SET STATISTICS -1, ALTER key_json SET STATISTICS -1;
ALTER TABLE requests ALTER digest SET STATISTICS -1, ALTER leaf SET STATISTICS -1, ALTER refusal SET STATISTICS -1,
    ALTER answer SET STATISTICS -1;
ALTER TABLE mailbox ALTER content SET STATISTICS -1;
ALTER TABLE user_stream ALTER content SET STATISTICS -1;
ALTER TABLE members ALTER list_digest SET STATISTICS -1, ALTER identity SET STATISTICS -1;
ALTER TABLE timeline ALTER session_id SET STATISTICS -1, ALTER target SET STATISTICS -1, ALTER signature SET STATISTICS -1,
    ALTER body_hash SET STATISTICS -1;
ALTER TABLE bodies ALTER body SET STATISTICS -1;
ALTER TABLE rooms ALTER room_id SET STATISTICS -1, ALTER create_body SET STATISTICS -1, ALTER direct_pair SET STATISTICS -1;
ALTER TABLE audit ALTER actor SET STATISTICS -1, ALTER device SET STATISTICS -1, ALTER object SET STATISTICS -1,
    ALTER detail SET STATISTICS -1, ALTER before SET STATISTICS -1, ALTER after SET STATISTICS -1, ALTER family SET STATISTICS -1,
    ALTER address SET STATISTICS -1, ALTER address_salt SET STATISTICS -1, ALTER address_hash SET STATISTICS -1;
