-- compatible from: 8. Who made an invitation: it counts for as long as its maker may still make it.
SET lock_timeout = '2s';
-- NULL: the server's operator. No foreign key: an invitation of somebody who is gone is void, not in the way.
ALTER TABLE registration_tokens ADD COLUMN inviter_number bigint;
