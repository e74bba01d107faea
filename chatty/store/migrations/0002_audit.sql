-- compatible from: 1. The audit log: from where, before and after; and the signed chain over its rows.
SET lock_timeout = '2s';

-- address and its salt are erased after a while; what the chain holds of them is address_hash, SHA-256(salt || address).
ALTER TABLE audit
    ADD COLUMN family text NOT NULL DEFAULT '',
    ADD COLUMN before jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN after jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN address text,
    ADD COLUMN address_salt bytea,
    ADD COLUMN address_hash bytea NOT NULL DEFAULT '',
    ADD COLUMN is_sealed boolean NOT NULL DEFAULT false;
-- Ids are given before the commit, so "id > last" would miss rows: what the sealer reads are the rows in this index.
CREATE INDEX audit_unsealed ON audit (audit_id) WHERE NOT is_sealed;
CREATE INDEX audit_addresses ON audit (time) WHERE address IS NOT NULL;

-- Positions 1, 2, 3, … without a hole, given by the sealer. No foreign key: a row that is missing must show, not cascade.
CREATE TABLE audit_seals (
    position bigint PRIMARY KEY,
    audit_id bigint NOT NULL UNIQUE,
    leaf bytea NOT NULL
);

-- Each batch of seals ends with a signed head, in the same transaction; without new rows one is signed every few minutes.
CREATE TABLE audit_heads (
    head_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position bigint NOT NULL,
    head bytea NOT NULL,
    generation bigint NOT NULL,
    time bigint NOT NULL,
    key text NOT NULL,
    signature text NOT NULL
);
CREATE INDEX audit_heads_position ON audit_heads (position, head_number);
