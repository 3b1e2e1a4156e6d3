//! Runs code of strangers: a process of its own under bubblewrap, with no network, no files but `/usr` and one directory,
//! no environment, and limits on time, memory, processes, output and files.
//!
//! Three layers, each enough for what it is about: namespaces (nothing else is there), resource limits set before the
//! interpreter starts (nothing grows without end), and this process, which looks each few milliseconds at what they cannot
//! say (memory of all processes together, files all together) and ends everything with one kill.
//!
//! Invariant: when a run has ended, by itself or because its future was dropped, none of its processes is left.
//! Absent on purpose: a way to run without the sandbox. Where it cannot be made, there is no code tool.

pub mod code;
mod command;
mod scratch;
mod seccomp;
mod tree;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_actors::event::Failure;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

pub use self::code::{CodeTool, Language};
pub use self::scratch::Left;
use self::scratch::{Base, Scratch, collect, measure};
use self::tree::Tree;
use crate::settings::SandboxSettings;

/// Between two looks at what a program uses.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For killed processes to be gone.
const DYING_MAX: Duration = Duration::from_secs(5);

/// The sandbox. One for all code tools; cheap to clone.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    settings: SandboxSettings,
    base: Base,
    filter: PathBuf,
    places: Semaphore,
}

/// Where code is run in this process.
#[derive(Debug, Default)]
enum Ground {
    /// Nowhere yet.
    #[default]
    None,
    Made(Base),
    /// The process ends.
    Left,
}

/// Leaves nothing outside of the data directory when it is dropped: the sandbox itself may be held by threads that never end.
#[derive(Debug, Default)]
pub struct SandboxGuard(Arc<Mutex<Ground>>);

impl Drop for SandboxGuard {
    fn drop(&mut self) {
        let mut ground = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ground::Made(base) = std::mem::replace(&mut *ground, Ground::Left) {
            base.leave();
        }
    }
}

/// Makes the sandbox of this process, unless it ends already.
fn make(ground: &Mutex<Ground>, settings: SandboxSettings, data_dir: &Path) -> Result<Sandbox, String> {
    let mut ground = ground.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*ground, Ground::Left) {
        return Err("the process ends".to_owned());
    }
    let sandbox = Sandbox::new(settings, data_dir)?;
    *ground = Ground::Made(sandbox.0.base.clone());
    Ok(sandbox)
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The interpreter, in `/usr`.
    pub interpreter: &'a Path,
    /// Its flags.
    pub flags: &'a [String],
    /// What the file with the code is called.
    pub file: &'a str,
    /// The code.
    pub code: &'a str,
}

/// How a program ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub exit_code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    /// What it left.
    pub files: Vec<Left>,
    /// Links, pipes and the like that it left.
    pub passed_over: usize,
}

/// Which limit ended a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Time,
    Cpu,
    Memory,
    Output,
    Files,
    FileBytes,
    Killed,
}

impl Sandbox {
    /// A sandbox whose directories are made near `data_dir`.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn new(settings: SandboxSettings, data_dir: &Path) -> Result<Self, String> {
        if !settings.bwrap.is_file() {
            return Err(format!("{} is not installed (package bubblewrap)", settings.bwrap.display()));
        }
        // What this process opens is closed at a start; what it was born with may not be, and would come along.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let base = Base::make(data_dir).map_err(|error| format!("no directory to run code in: {error}"))?;
        if base.path.starts_with("/usr") {
            return Err("the data directory stands in /usr, which programs can read".to_owned());
        }
        let filter = seccomp::filter().map_err(|error| format!("no filter of system calls: {error}"))?;
        let path = base.path.join("seccomp.bpf");
        // Whatever the umask: programs run as somebody else where this process is root, and it is no secret.
        std::fs::write(&path, filter)
            .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o644)))
            .map_err(|error| format!("no filter of system calls: {error}"))?;
        let places = Semaphore::new(settings.concurrent_max.as_usize());
        Ok(Self(Arc::new(Inner { settings, base, filter: path, places })))
    }

    /// Whether `interpreter` runs here. Blocks; for the start.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn probe(&self, program: Program<'_>, expected: &str) -> Result<(), String> {
        let scratch = Scratch::make(&self.0.base, program.file, program.code).map_err(|error| error.to_string())?;
        let output = self.command(&scratch, program).stderr(Stdio::piped()).stdout(Stdio::piped()).output();
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == expected {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = crate::security::encoded(said.trim().lines().next().unwrap_or_default());
        Err(format!("{} does not run in the sandbox: {}, {said}", program.interpreter.display(), output.status))
    }

    fn command(&self, scratch: &Scratch, program: Program<'_>) -> std::process::Command {
        command::command(&self.0.settings, &self.0.base, &self.0.filter, scratch, program)
    }

    /// Runs a program to its end or to its limit.
    ///
    /// # Errors
    /// `sandbox_limit` names the limit that ended it; `tool_failed` if it could not be started.
    ///
    /// # Cancel safety
    /// Dropping the future kills every process of the program.
    pub async fn run(&self, program: Program<'_>) -> Result<Ended, Failure> {
        let settings = &self.0.settings;
        let broken = |error: std::io::Error| Failure::new("tool_failed", format!("the sandbox does not work: {error}"));
        let _place = self.0.places.acquire().await.map_err(|error| broken(std::io::Error::other(error)))?;
        let scratch = Scratch::make(&self.0.base, program.file, program.code).map_err(broken)?;
        let mut command = Command::from(self.command(&scratch, program));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(broken)?;
        let mut running = Running::new(child, scratch);
        let ended = running.until_end(settings).await;
        running.kill().await;
        let (status, stdout, stderr) = ended.map_err(|limit| limit.failure(settings))?;
        let exit_code = status.code().unwrap_or(-1);
        // bubblewrap says 128 and the signal's number.
        let limit = match exit_code.checked_sub(128) {
            Some(libc::SIGXCPU) => Some(Limit::Cpu),
            Some(libc::SIGXFSZ) => Some(Limit::FileBytes),
            Some(libc::SIGKILL) => Some(Limit::Killed),
            _ => over(&running.scratch.work(), settings),
        };
        if let Some(limit) = limit {
            return Err(limit.failure(settings));
        }
        let (files, passed_over) = collect(&running.scratch.work(), settings.files_bytes_max.get()).map_err(broken)?;
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if exit_code != 0 && stdout.is_empty() && stderr.starts_with("bwrap: ") {
            return Err(broken(std::io::Error::other("bubblewrap could not isolate the program")));
        }
        Ok(Ended { exit_code, stdout, stderr, files, passed_over })
    }
}

/// A program that runs; killed when dropped.
struct Running {
    child: Child,
    tree: Option<Tree>,
    scratch: Scratch,
}

impl Running {
    fn new(child: Child, scratch: Scratch) -> Self {
        let tree = child.id().map(|outer| Tree { outer });
        Self { child, tree, scratch }
    }

    async fn until_end(&mut self, settings: &SandboxSettings) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), Limit> {
        let end = Instant::now() + settings.timeout_ms.duration();
        let max = settings.output_bytes_max.as_usize();
        let mut stdout = Box::pin(read(self.child.stdout.take(), max));
        let mut stderr = Box::pin(read(self.child.stderr.take(), max));
        let (mut out, mut err, mut status) = (None, None, None);
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                read = &mut stdout, if out.is_none() => out = Some(read?),
                read = &mut stderr, if err.is_none() => err = Some(read?),
                ended = self.child.wait(), if status.is_none() => status = Some(ended.map_err(|_| Limit::Killed)?),
                _ = look.tick() => {
                    let memory = self.tree.map_or(0, Tree::memory);
                    if memory > settings.memory_bytes_max.get() {
                        return Err(Limit::Memory);
                    }
                    if let Some(limit) = over(&self.scratch.work(), settings) {
                        return Err(limit);
                    }
                }
                () = sleep_until(end) => return Err(Limit::Time),
            }
            if let (Some(out), Some(err), Some(status)) = (&mut out, &mut err, status) {
                return Ok((status, std::mem::take(out), std::mem::take(err)));
            }
        }
    }

    /// Kills what is left and waits until it is gone.
    async fn kill(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            self.tree = None;
            return;
        }
        if let Some(tree) = self.tree {
            tree.kill();
        }
        if timeout(DYING_MAX, self.child.wait()).await.is_err() {
            tracing::error!("a program in the sandbox does not die");
            let _ = self.child.start_kill();
            return;
        }
        self.tree = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(tree) = self.tree
            && !matches!(self.child.try_wait(), Ok(Some(_)))
        {
            tree.kill();
        }
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, max: usize) -> Result<Vec<u8>, Limit> {
    let Some(pipe) = pipe else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    let read = pipe.take(max as u64 + 1).read_to_end(&mut bytes).await;
    // A pipe that breaks has ended.
    if read.is_ok() && bytes.len() > max { Err(Limit::Output) } else { Ok(bytes) }
}

fn over(work: &Path, settings: &SandboxSettings) -> Option<Limit> {
    let files_max = settings.files_max.as_usize();
    match measure(work, files_max) {
        None => Some(Limit::Files),
        Some((entries, _)) if entries > files_max => Some(Limit::Files),
        Some((_, bytes)) if bytes > settings.files_bytes_max.get() => Some(Limit::FileBytes),
        Some(_) => None,
    }
}

impl Limit {
    fn failure(self, settings: &SandboxSettings) -> Failure {
        let what = match self {
            Self::Time => format!("ran longer than {} ms", settings.timeout_ms),
            Self::Cpu => format!("used more than {} s of processor time", settings.cpu_s),
            Self::Memory => format!("held more than {} bytes of memory", settings.memory_bytes_max),
            Self::Output => format!("printed more than {} bytes", settings.output_bytes_max),
            Self::Files => format!("left more than {} files, or some that cannot be read", settings.files_max),
            Self::FileBytes => format!("wrote more than {} bytes of files", settings.files_bytes_max),
            Self::Killed => "was killed: it used more memory or processor time than there is".to_owned(),
        };
        Failure::new("sandbox_limit", format!("the program {what} and was ended"))
    }
}
