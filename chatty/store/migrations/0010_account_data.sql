-- compatible from: 4. What a user may do with the own account: blocks.
SET lock_timeout = '2s';

-- Whom a user does not want to hear from: nothing but the pair.
CREATE TABLE blocks (
    user_number bigint NOT NULL,
    blocked_number bigint NOT NULL,
    PRIMARY KEY (user_number, blocked_number)
);
CREATE INDEX blocks_blocked ON blocks (blocked_number);
