//! The history file behind its port.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use fleet_actors::ports::{ExportEntry, HistoryExport, HistoryRow, SendFuture, StoreError};

use super::{ExportError, HistoryFile};

/// The file behind its port: each call runs on a thread that may block, one after the other.
#[derive(Clone, Debug)]
pub struct JsonlExport {
    file: Arc<Mutex<HistoryFile>>,
}

impl JsonlExport {
    /// The export to the file at `path`, which is rotated when it has `bytes_max` bytes.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, bytes_max: u64) -> Self {
        Self { file: Arc::new(Mutex::new(HistoryFile::new(path, bytes_max))) }
    }

    /// As [`HistoryFile::check`]; it may block.
    ///
    /// # Errors
    /// [`ExportError::Foreign`].
    pub fn check(&self) -> Result<(), ExportError> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).check()
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut HistoryFile) -> Result<T, ExportError> + Send + 'static,
    ) -> SendFuture<'_, Result<T, StoreError>> {
        let file = self.file.clone();
        Box::pin(async move {
            let work = move || work(&mut file.lock().unwrap_or_else(PoisonError::into_inner));
            match tokio::task::spawn_blocking(work).await {
                Ok(done) => Ok(done?),
                Err(stopped) => Err(StoreError::Unavailable(stopped.to_string())),
            }
        })
    }
}

impl HistoryExport for JsonlExport {
    fn repair(&self) -> SendFuture<'_, Result<Option<u64>, StoreError>> {
        self.with(HistoryFile::repair)
    }

    fn append(&self, entries: Vec<ExportEntry>) -> SendFuture<'_, Result<(), StoreError>> {
        self.with(move |file| file.append(&entries))
    }

    fn rewrite(&self, cursor: u64) -> SendFuture<'_, Result<(), StoreError>> {
        self.with(move |file| file.begin_rewrite(cursor))
    }

    fn rows(&self, rows: Vec<HistoryRow>) -> SendFuture<'_, Result<(), StoreError>> {
        self.with(move |file| file.rewrite_rows(&rows))
    }

    fn finish(&self) -> SendFuture<'_, Result<(), StoreError>> {
        self.with(HistoryFile::finish_rewrite)
    }
}
