-- Open questions can be listed over all workflows; a closed one keeps no text here, the journal has it.
ALTER TABLE questions ADD COLUMN asked_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE questions ADD COLUMN request_type TEXT NOT NULL DEFAULT '';
ALTER TABLE questions ADD COLUMN question TEXT;     -- JSON; NULL when it is closed
CREATE INDEX questions_open ON questions (asked_at, request) WHERE state = 'open';

-- How good an answer is: JSON; NULL where nobody judges.
ALTER TABLE messages ADD COLUMN quality TEXT;
CREATE INDEX messages_judged ON messages (workflow) WHERE quality IS NOT NULL;

-- The run that left this one behind (workflows.id), which may be gone.
ALTER TABLE workflows ADD COLUMN child_of TEXT;
CREATE INDEX workflows_by_parent_run ON workflows (child_of) WHERE child_of IS NOT NULL;
-- The same as a flag where the state stands.
ALTER TABLE lives ADD COLUMN child INTEGER NOT NULL DEFAULT 0;
CREATE INDEX lives_children ON lives (wake_at) WHERE child = 1 AND ended_at IS NULL;
