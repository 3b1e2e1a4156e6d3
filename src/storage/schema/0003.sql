-- A run's first and last append wrote to ten indexes. These five are smaller, one instead of two, or not for every run.

-- Of forks only: most runs are their own root.
DROP INDEX workflows_by_root;
CREATE INDEX workflows_by_fork_root ON workflows (root) WHERE parent IS NOT NULL;

DROP INDEX workflows_by_conversation;
CREATE INDEX workflows_by_conversation ON workflows (tenant, conversation, id) WHERE conversation IS NOT NULL;

-- What runs is found in what is not over.
DROP INDEX lives_running;
DROP INDEX lives_unfinished;
CREATE INDEX lives_unfinished ON lives (state, opening) WHERE ended_at IS NULL;

-- Shared payloads are few, so a workflow's references are found by asking for each of them.
ALTER TABLE shared_refs RENAME TO shared_refs_before;
CREATE TABLE shared_refs (
    hash     BLOB NOT NULL,
    workflow INTEGER NOT NULL,          -- workflows.num
    tenant   TEXT NOT NULL DEFAULT 'local',
    PRIMARY KEY (hash, workflow)
) WITHOUT ROWID;
INSERT INTO shared_refs (hash, workflow, tenant) SELECT hash, workflow, tenant FROM shared_refs_before;
DROP TABLE shared_refs_before;
