-- Refused once somebody has a second factor: older code would let in whoever shows none.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM totp_secrets) OR EXISTS (SELECT 1 FROM recovery_codes) OR EXISTS (SELECT 1 FROM passkeys) THEN
        RAISE EXCEPTION 'accounts have second factors, and older code would let in whoever shows none';
    END IF;
END $$;

DROP TABLE passkeys, recovery_codes, totp_secrets;
