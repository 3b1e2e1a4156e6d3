//! The binary in processes of its own, and what the kernel says of them.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process of ours; killed when dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(arguments: &[&str], environment: &[(&str, &str)], dir: &Path, mark: &str) -> Self {
        Self::spawn(Command::new(env!("CARGO_BIN_EXE_agentic-fleet")), arguments, environment, dir, mark)
    }

    /// This program again, told to be a server of its own.
    pub fn bare(dir: &Path, argument: &str) -> Self {
        let own = std::env::current_exe().expect("this program");
        Self::spawn(Command::new(own), &[argument], &[], dir, "bare: http://")
    }

    fn spawn(mut command: Command, arguments: &[&str], environment: &[(&str, &str)], dir: &Path, mark: &str) -> Self {
        command.args(arguments).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.env_remove("OPENAI_API_KEY").env("LOG_LEVEL", "error").envs(environment.iter().copied());
        let mut child = command.spawn().expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        for line in lines.map_while(Result::ok).take(5) {
            let Some((_, url)) = line.split_once(mark) else { continue };
            let address = url.split('/').next().unwrap_or_default();
            return Self { child, address: address.parse().expect("an address") };
        }
        panic!("{arguments:?} did not say `{mark}`");
    }

    /// The simulated model: every answer has 20 tokens, all of them after `latency_ms`.
    pub fn simulate(dir: &Path, latency_ms: u64) -> Self {
        Self::simulate_varied(dir, latency_ms, 0.0)
    }

    /// The same, and latencies vary by this share, each call's by its words.
    pub fn simulate_varied(dir: &Path, latency_ms: u64, jitter: f64) -> Self {
        let (latency, jitter) = (latency_ms.to_string(), jitter.to_string());
        let pace = ["--tokens-per-second", "0", "--jitter", &jitter, "--tokens", "20"];
        let mut arguments = vec!["simulate-llm", "--port", "0", "--latency-ms", &latency];
        arguments.extend(pace);
        Self::start(&arguments, &[], dir, "OPENAI_BASE_URL=http://")
    }

    /// The server, with this model and room for `cap` runs.
    pub fn serve(dir: &Path, model: SocketAddr, cap: u32) -> Self {
        let (url, cap) = (format!("http://{model}/v1"), cap.to_string());
        let environment = [("OPENAI_BASE_URL", &*url), ("MAX_CONCURRENT_WORKFLOWS", &*cap)];
        Self::start(&["serve", "--port", "0"], &environment, dir, "browser: http://")
    }

    /// The server of this file and these variables.
    pub fn serve_with(dir: &Path, config: &Path, environment: &[(&str, &str)]) -> Self {
        let config = config.to_str().expect("a path");
        Self::start(&["serve", "--port", "0", "--config", config], environment, dir, "browser: http://")
    }

    /// Stops it as an operator would, and waits for its end.
    pub fn terminate(mut self) {
        let id = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status().expect("kill runs");
        assert!(told.success(), "it was told to stop");
        let ended = self.child.wait().expect("it ends");
        assert!(ended.success(), "{ended}");
    }

    pub fn usage(&self) -> Usage {
        Usage::of(&format!("/proc/{}", self.child.id()))
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu_s: f64,
    pub rss_bytes: f64,
}

impl Usage {
    /// This process.
    pub fn own() -> Self {
        Self::of("/proc/self")
    }

    fn of(dir: &str) -> Self {
        // user and system time, in ticks of 10 ms, stand behind the name, which may hold anything.
        let stat = std::fs::read_to_string(format!("{dir}/stat")).unwrap_or_default();
        let fields: Vec<f64> =
            stat.rsplit(')').next().unwrap_or_default().split(' ').map(|n| n.parse().unwrap_or(0.0)).collect();
        let cpu_s = (fields.get(12).unwrap_or(&0.0) + fields.get(13).unwrap_or(&0.0)) / 100.0;
        let status = std::fs::read_to_string(format!("{dir}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = rss.and_then(|text| text.trim().split(' ').next()?.parse().ok()).unwrap_or(0.0);
        Self { cpu_s, rss_bytes: kib * 1024.0 }
    }
}

/// Bytes that the kernel holds for all TCP sockets: buffers alone, not its socket objects.
pub fn tcp_buffer_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_once("mem ").and_then(|(_, pages)| pages.trim().parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}

/// Bytes that the kernel holds for its own objects, sockets and files among them.
pub fn kernel_slab_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("Slab:")?.trim().split(' ').next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}

/// The median time of a sync behind an append of so many bytes, in milliseconds, when each comes so long after the one before it.
pub fn sync_p50_ms(dir: &Path, bytes: usize, rest: Duration) -> f64 {
    use std::io::Write as _;
    let mut file = std::fs::File::create(dir.join("sync-probe")).expect("a file");
    let page = vec![7; bytes];
    let times = (0..200).map(|_| {
        std::thread::sleep(rest);
        let began = Instant::now();
        file.write_all(&page).and_then(|()| file.sync_all()).expect("synced");
        began.elapsed().as_secs_f64() * 1e3
    });
    super::figure::median(times)
}
