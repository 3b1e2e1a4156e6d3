//! The lines of the history file.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};

use fleet_actors::event::{Failure, RunOutcome, Usage};
use fleet_actors::ports::{HistoryRow, ReasoningEffort, RunOutput};
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct ExecutionLine<'a> {
    workflow_id: &'a str,
    conversation_id: Option<&'a str>,
    task: &'a str,
    status: RunOutcome,
    result: Option<&'a RunOutput>,
    error: Option<&'a Failure>,
    reasoning_effort: Option<ReasoningEffort>,
    created_at: String,
    completed_at: String,
    runtime_ms: u64,
    model_calls: u32,
    usage: Usage,
    cursor: u64,
}

/// The first line of a rewritten file: it stands for everything before it.
#[derive(Serialize, Deserialize)]
struct RewrittenLine {
    rewritten: bool,
    cursor: u64,
}

/// What every line has.
#[derive(Deserialize)]
struct AnyLine {
    cursor: u64,
}

pub(super) fn write_row(out: &mut impl Write, row: &HistoryRow, cursor: u64) -> std::io::Result<()> {
    write_line(
        out,
        &ExecutionLine {
            workflow_id: row.workflow_id.as_str(),
            conversation_id: row.conversation_id.as_ref().map(|id| id.as_str()),
            task: &row.task,
            status: row.status,
            result: row.result.as_ref(),
            error: row.error.as_ref(),
            reasoning_effort: row.reasoning_effort,
            created_at: row.created_at.to_string(),
            completed_at: row.completed_at.to_string(),
            runtime_ms: row.runtime_ms,
            model_calls: row.model_calls,
            usage: row.usage,
            cursor,
        },
    )
}

fn write_line(out: &mut impl Write, line: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Where the last line before `end` begins, and its bytes, its line feed included if it has one.
fn last_line(file: &mut File, end: u64) -> std::io::Result<(u64, Vec<u8>)> {
    const STEP: u64 = 64 * 1024;
    let mut start = end;
    let mut bytes = Vec::new();
    while start > 0 {
        let from = start.saturating_sub(STEP);
        let mut block = vec![0; usize::try_from(start - from).unwrap_or_default()];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(&mut block)?;
        // The line's own line feed is the last byte before `end` and begins nothing.
        let own = usize::from(start == end);
        let feed = block[..block.len() - own].iter().rposition(|byte| *byte == b'\n');
        let begins = feed.map_or(0, |at| at + 1);
        let mut line = block.split_off(begins);
        line.append(&mut bytes);
        bytes = line;
        start = from + begins as u64;
        if feed.is_some() {
            break;
        }
    }
    Ok((start, bytes))
}

/// Where the last whole line of a file ends, and its cursor.
pub(super) fn last_whole(file: &mut File) -> std::io::Result<(u64, Option<u64>)> {
    let mut end = file.metadata()?.len();
    while end > 0 {
        let (start, line) = last_line(file, end)?;
        let whole = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<AnyLine>(line).ok());
        if let Some(line) = whole {
            return Ok((end, Some(line.cursor)));
        }
        end = start;
    }
    Ok((0, None))
}

/// What lines begin with.
const BEGINNINGS: [&[u8]; 2] = [b"{\"workflow_id\":", b"{\"rewritten\":"];
/// A longer first line that does not begin so is not read to its end.
const FIRST_LINE_MAX: u64 = 16 << 20;

/// Whether a file is a history file, or what a crash left of one, and not somebody else's.
pub(super) fn is_own(file: File) -> std::io::Result<bool> {
    let mut file = BufReader::new(file);
    // A power cut may leave zeros where the first lines were to be.
    let filler = |byte: &u8| matches!(byte, 0 | b'\n');
    loop {
        let block = file.fill_buf()?;
        let filled = block.iter().take_while(|byte| filler(byte)).count();
        let over = filled < block.len() || block.is_empty();
        file.consume(filled);
        if over {
            break;
        }
    }
    let mut first = Vec::new();
    file.take(FIRST_LINE_MAX).read_until(b'\n', &mut first)?;
    let begins = BEGINNINGS.iter().any(|begins| first.starts_with(begins) || begins.starts_with(&first));
    // A tool may have put a line's keys in another order.
    Ok(begins || first.first() == Some(&b'{') && serde_json::from_slice::<AnyLine>(&first).is_ok())
}

/// Whether a file stands for everything before it.
pub(super) fn is_rewritten(file: File) -> std::io::Result<bool> {
    // Longer than that line can be; another first line may be of any length.
    let mut first = Vec::new();
    BufReader::new(file).take(256).read_until(b'\n', &mut first)?;
    Ok(serde_json::from_slice::<RewrittenLine>(&first).is_ok_and(|line| line.rewritten))
}

pub(super) fn write_rewritten(out: &mut impl Write, cursor: u64) -> std::io::Result<()> {
    write_line(out, &RewrittenLine { rewritten: true, cursor })
}
