-- Invitations made by users end: older code would let them count whoever made them.
SET lock_timeout = '2s';

DELETE FROM registration_tokens WHERE inviter_number IS NOT NULL;
ALTER TABLE registration_tokens DROP COLUMN inviter_number;
