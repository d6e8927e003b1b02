-- What is to be done, and what came of it: psql -f jobs.sql

CREATE TABLE jobs (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key       text UNIQUE,                       -- the client's name for it
    remote_ip inet NOT NULL,                     -- what the core is given
    state     text NOT NULL DEFAULT 'waiting',   -- then 'done' or 'failed'
    result    text,
    panics    integer NOT NULL DEFAULT 0
);

-- Takers look for what waits, however much is done.
CREATE INDEX ON jobs (id) WHERE state = 'waiting';
