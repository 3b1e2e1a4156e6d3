//! Tells the process that a service panicked.
//!
//! A session that panics is rebuilt; a service is shared by all of them, and what it held in memory is gone. Nothing here
//! decides what follows: the binary gives a callback, which ends the process, and the next one takes the runs up.
//!
//! Absent on purpose: a restart of a service in place. Its journal is the database, and the way to read that again is the
//! one that every start takes.

use std::future::Future;
use std::sync::Arc;

/// What to do when a service panicked, given its name. It runs while the panic unwinds.
pub type OnPanic = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Who is told of a panic of a service. The default tells nobody.
#[derive(Clone, Default)]
pub struct Watch {
    on_panic: Option<OnPanic>,
}

impl Watch {
    /// Tells `on_panic`.
    #[must_use]
    pub fn new(on_panic: OnPanic) -> Self {
        Self { on_panic: Some(on_panic) }
    }

    /// What a service holds as long as it lives: dropped by a panic, it tells of it.
    #[must_use]
    pub fn alive(&self, service: &'static str) -> Alive {
        Alive { watch: self.clone(), service }
    }

    /// Does a service's work and tells of a panic in it.
    ///
    /// # Cancel safety
    /// A dropped future is not a panic.
    pub async fn over<F: Future>(&self, service: &'static str, work: F) -> F::Output {
        let _alive = self.alive(service);
        work.await
    }
}

/// Held by a service.
pub struct Alive {
    watch: Watch,
    service: &'static str,
}

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(on_panic) = self.watch.on_panic.as_ref().filter(|_| std::thread::panicking()) {
            on_panic(self.service);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::PoisonError;

    use super::*;

    #[test]
    fn a_panic_is_told_once_with_the_services_name_and_an_ordinary_end_is_not() {
        let told: Arc<Mutex<Vec<&str>>> = Arc::default();
        let ears = told.clone();
        let watch = Watch::new(Arc::new(move |name| ears.lock().unwrap_or_else(PoisonError::into_inner).push(name)));
        drop(watch.alive("calm"));
        let broken = watch.clone();
        let panicked = std::thread::spawn(move || {
            let _alive = broken.alive("broken");
            panic!("on purpose");
        });
        assert!(panicked.join().is_err());
        assert_eq!(*told.lock().unwrap_or_else(PoisonError::into_inner), ["broken"]);
    }
}
