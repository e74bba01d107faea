-- To an empty database; refused once there is an account.
SET lock_timeout = '2s';

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM users) THEN
        RAISE EXCEPTION 'there are accounts: nothing but DROP DATABASE goes back from here';
    END IF;
END $$;

DROP TABLE audit, leases, revocations, owed_devices, bodies, timeline, member_intervals, members, rooms, user_stream, mailbox, fallback_keys, one_time_keys, refresh_families, requests, device_send, devices, registration_tokens, users, sealed_keys, server;
