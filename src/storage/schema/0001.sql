-- Ids are text where people and other processes see them; inside, a workflow and a conversation are a number that is
-- never given twice, so that a journal row costs four bytes instead of forty to say whose it is.

CREATE TABLE meta (
    tenant TEXT NOT NULL DEFAULT 'local',
    key    TEXT NOT NULL,
    value  INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;

CREATE TABLE conversations (
    num        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant     TEXT NOT NULL DEFAULT 'local',
    id         TEXT NOT NULL,
    title      TEXT,                -- NULL until the first message gives one
    created_at INTEGER NOT NULL,    -- times are milliseconds since the Unix epoch
    updated_at INTEGER NOT NULL,
    UNIQUE (tenant, id)
);
CREATE INDEX conversations_by_change ON conversations (tenant, updated_at, id);

CREATE TABLE messages (
    num           INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant        TEXT NOT NULL DEFAULT 'local',
    id            TEXT NOT NULL,
    conversation  INTEGER NOT NULL, -- conversations.num
    role          TEXT NOT NULL,
    content       TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    author        TEXT,
    agent_id      TEXT,
    workflow      TEXT,             -- workflows.id, which the message may outlive
    finish_reason TEXT,
    UNIQUE (tenant, id)
);
CREATE INDEX messages_by_conversation ON messages (conversation, num);

-- What a workflow was made with. Written once: a row may be large, and an append must not rewrite it.
CREATE TABLE workflows (
    num             INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant          TEXT NOT NULL DEFAULT 'local',
    id              TEXT NOT NULL UNIQUE,
    root            INTEGER NOT NULL,   -- the workflow that its forks and their forks come from; itself if it is none
    parent          INTEGER,            -- workflows.num
    parent_position INTEGER,            -- the last position shared with it
    hidden          INTEGER NOT NULL DEFAULT 0, -- deleted, but a fork shares its records
    name            TEXT NOT NULL,
    version         INTEGER NOT NULL,
    conversation    TEXT,
    task            TEXT NOT NULL,
    effort          TEXT,
    request_key     TEXT,
    request_digest  TEXT,
    on_disconnect   TEXT NOT NULL,
    created_at      INTEGER NOT NULL
);
CREATE INDEX workflows_by_conversation ON workflows (tenant, conversation, id);
CREATE INDEX workflows_by_parent ON workflows (parent) WHERE parent IS NOT NULL;
CREATE INDEX workflows_by_root ON workflows (root);

-- Where a workflow stands. Small, rewritten by every append.
CREATE TABLE lives (
    num        INTEGER PRIMARY KEY,     -- workflows.num
    tenant     TEXT NOT NULL DEFAULT 'local',
    epoch      INTEGER NOT NULL,
    head       INTEGER NOT NULL,
    runtime_ms INTEGER NOT NULL,
    state      TEXT NOT NULL,           -- running, parked, resting, ended
    detail     TEXT,                    -- how it rests or ended
    wake_at    INTEGER,
    opening    INTEGER NOT NULL,        -- the opening of this store that its last append came through
    ended_at   INTEGER,
    updated_at INTEGER NOT NULL
);
CREATE INDEX lives_running ON lives (opening) WHERE state = 'running';
CREATE INDEX lives_parked ON lives (wake_at) WHERE state = 'parked';
CREATE INDEX lives_unfinished ON lives (num) WHERE ended_at IS NULL;
CREATE INDEX lives_ended ON lives (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE journal (
    num       INTEGER PRIMARY KEY,
    tenant    TEXT NOT NULL DEFAULT 'local',
    workflow  INTEGER NOT NULL,         -- workflows.num
    position  INTEGER NOT NULL,
    epoch     INTEGER NOT NULL,
    seq       INTEGER,
    format    INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    path      TEXT NOT NULL,
    head      BLOB NOT NULL,
    body      BLOB,                     -- when it is small
    body_hash BLOB,                     -- when it is large: BLAKE3, the key of its payload
    scope     INTEGER NOT NULL,         -- 0 no body, 1 of its root's own, 2 shared with everybody
    checksum  INTEGER NOT NULL          -- CRC-32 over all of it
);
CREATE UNIQUE INDEX journal_by_position ON journal (workflow, position);

CREATE TABLE payloads (
    num    INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL DEFAULT 'local',
    root   INTEGER NOT NULL,            -- workflows.root: never shared between conversations
    hash   BLOB NOT NULL,
    bytes  BLOB NOT NULL,
    UNIQUE (root, hash)
);

CREATE TABLE shared_payloads (
    num    INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL DEFAULT 'local',
    hash   BLOB NOT NULL,
    bytes  BLOB NOT NULL,
    UNIQUE (tenant, hash)
);
CREATE TABLE shared_refs (
    workflow INTEGER NOT NULL,          -- workflows.num
    hash     BLOB NOT NULL,
    tenant   TEXT NOT NULL DEFAULT 'local',
    PRIMARY KEY (workflow, hash)
) WITHOUT ROWID;
CREATE INDEX shared_refs_by_hash ON shared_refs (hash);

CREATE TABLE questions (
    workflow   INTEGER NOT NULL,        -- workflows.num
    request    TEXT NOT NULL,
    tenant     TEXT NOT NULL DEFAULT 'local',
    expires_at INTEGER NOT NULL,
    state      TEXT NOT NULL,           -- open, taken (an answer waits in the inbox), closed
    PRIMARY KEY (workflow, request)
) WITHOUT ROWID;

CREATE TABLE inbox (
    num      INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant   TEXT NOT NULL DEFAULT 'local',
    workflow INTEGER NOT NULL,          -- workflows.num
    request  TEXT NOT NULL,             -- the question answered; empty for a cancel
    command  TEXT NOT NULL,
    UNIQUE (workflow, request)
);

CREATE TABLE requests (
    tenant   TEXT NOT NULL DEFAULT 'local',
    key      TEXT NOT NULL,
    workflow TEXT NOT NULL,             -- workflows.id
    digest   TEXT NOT NULL,
    given_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) WITHOUT ROWID;
CREATE INDEX requests_by_workflow ON requests (workflow);
CREATE INDEX requests_by_age ON requests (given_at);

CREATE TABLE history (
    num          INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which runs ended
    tenant       TEXT NOT NULL DEFAULT 'local',
    workflow     TEXT NOT NULL,         -- workflows.id, which the entry may outlive
    conversation TEXT,
    entry        TEXT NOT NULL,         -- JSON
    UNIQUE (tenant, workflow)
);
CREATE INDEX history_by_conversation ON history (tenant, conversation) WHERE conversation IS NOT NULL;

-- A run of neighbouring entries of history, by id: from `first` up to the next block's. What makes an offset cheap.
CREATE TABLE history_blocks (
    tenant  TEXT NOT NULL DEFAULT 'local',
    first   TEXT NOT NULL,
    entries INTEGER NOT NULL,
    PRIMARY KEY (tenant, first)
) WITHOUT ROWID;

-- Which entry of history changed. What it is now stands in `history`; if it is not there, it was deleted.
CREATE TABLE export_queue (
    cursor   INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant   TEXT NOT NULL DEFAULT 'local',
    workflow TEXT NOT NULL
);

CREATE TABLE probe (
    num    INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL DEFAULT 'local',
    filler BLOB NOT NULL
);
