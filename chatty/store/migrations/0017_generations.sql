-- compatible from: 17. Going on from a backup: older code would not tell returning clients how far the server went back.
SET lock_timeout = '2s';

-- Where each room says that a generation began. A client of an earlier one is shown the room from there on again.
CREATE TABLE room_restorations (
    room_number bigint NOT NULL,
    generation bigint NOT NULL,
    seq bigint NOT NULL,
    PRIMARY KEY (room_number, generation)
);
