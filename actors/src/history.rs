//! Writes finished executions to an export file, behind a cursor that the store keeps.
//!
//! The rows themselves are committed with the end of their run; this only follows. At start it repairs the file, and makes
//! it anew from the table when lines are missing or something was deleted.
//! Invariant: the cursor never passes a deletion whose lines are still in the file, so no crash leaves them there.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext as _, Context, WrapFuture as _};

use crate::checkpoint::Checkpoints;
use crate::failpoint::{FailPoint, reach};
use crate::ids::WorkflowId;
use crate::ports::{HistoryExport, Store, StoreError, StoreWrite};
use crate::trouble::Trouble;
use crate::watch::{Alive, Watch};

/// Entries exported by one sync.
const PAGE: u32 = 256;
/// The queue is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The export's only writer.
pub struct HistoryActor {
    store: Arc<dyn Store>,
    checkpoints: Checkpoints,
    export: Arc<dyn HistoryExport>,
    _alive: Alive,
}

impl HistoryActor {
    /// Starts it on `arbiter`; `watch` is told if it panics.
    pub fn start_on(
        arbiter: &actix::ArbiterHandle,
        store: Arc<dyn Store>,
        checkpoints: Checkpoints,
        export: Arc<dyn HistoryExport>,
        watch: &Watch,
    ) {
        let actor = Self { store, checkpoints, export, _alive: watch.alive("HistoryActor") };
        drop(Self::start_in_arbiter(arbiter, |_| actor));
    }
}

impl Actor for HistoryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let follower =
            Follower { store: self.store.clone(), checkpoints: self.checkpoints.clone(), export: self.export.clone() };
        ctx.spawn(async move { follower.follow().await }.into_actor(self));
    }
}

struct Follower {
    store: Arc<dyn Store>,
    checkpoints: Checkpoints,
    export: Arc<dyn HistoryExport>,
}

impl Follower {
    async fn follow(&self) {
        let mut behind = Trouble::default();
        while let Err(error) = self.repair().await {
            if behind.shows(&error) {
                tracing::warn!(%error, "the history export was not repaired, trying again");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        loop {
            let exported = self.step().await;
            if exported.is_ok() && behind.is_over() {
                tracing::info!("the history export goes on");
            }
            match exported {
                Ok(exported) if exported >= PAGE as usize => {}
                // What came in the meantime goes out together: each step costs a sync of the file and a commit of the
                // cursor, and the commits of live runs wait behind both. Without this rest every third commit under
                // load was the cursor's.
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(error) => {
                    if behind.shows(&error) {
                        tracing::warn!(%error, "the history export is behind, trying again");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn repair(&self) -> Result<(), StoreError> {
        let last_line = self.export.repair().await?;
        let (cursor, _) = self.store.export_queue(1).await?;
        if last_line.unwrap_or(0) < cursor { self.rewrite(cursor).await } else { Ok(()) }
    }

    /// Exports what is queued, a page at most; how much it was.
    async fn step(&self) -> Result<usize, StoreError> {
        reach(FailPoint::HistoryStep);
        let (_, entries) = self.store.export_queue(PAGE).await?;
        let Some(last) = entries.last().map(|entry| entry.cursor) else { return Ok(0) };
        let exported = entries.len();
        reach(FailPoint::BeforeExport);
        if entries.iter().any(|entry| entry.row.is_none()) {
            self.rewrite(last).await?;
        } else {
            self.export.append(entries).await?;
        }
        reach(FailPoint::AfterExport);
        self.checkpoints.write(StoreWrite::HistoryExported { cursor: last }).await?;
        reach(FailPoint::AfterExportCursor);
        Ok(exported)
    }

    async fn rewrite(&self, cursor: u64) -> Result<(), StoreError> {
        self.export.rewrite(cursor).await?;
        let mut after: Option<WorkflowId> = None;
        loop {
            let rows = self.store.history_scan(after, PAGE).await?;
            let Some(last) = rows.last().map(|row| row.workflow_id.clone()) else { break };
            after = Some(last);
            self.export.rows(rows).await?;
        }
        reach(FailPoint::InRewrite);
        self.export.finish().await
    }
}
