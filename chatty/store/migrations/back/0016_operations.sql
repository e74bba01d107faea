-- Where the code failed, and how large everything was, is forgotten.
SET lock_timeout = '2s';

DROP TABLE crashes, size_samples;
