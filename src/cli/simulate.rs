//! `simulate-llm`: the simulated model as a server of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::Simulate;
use super::terminal::{complain, say};
use crate::llm::simulate_server::{SimulatorConfig, start};

pub(super) fn serve(options: &Simulate) -> i32 {
    let mut config =
        SimulatorConfig { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, options.port)), ..Default::default() };
    config.simulation.seed = options.seed;
    config.simulation.latency = Duration::from_millis(options.latency_ms);
    config.simulation.tokens_per_second = NonZeroU32::new(options.tokens_per_second);
    config.simulation.jitter = options.jitter.clamp(0.0, 1.0);
    config.simulation.tokens = options.tokens;
    let served = actix_web::rt::System::new().block_on(async move {
        let simulator = start(config)?;
        say(&format!("simulated model: OPENAI_BASE_URL={}", simulator.base_url()));
        say(&format!("what it was asked: curl {}/admin/stats", simulator.base_url().trim_end_matches("/v1")));
        simulator.run_until(async { drop(tokio::signal::ctrl_c().await) }).await
    });
    match served {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("simulate-llm: {error}"));
            1
        }
    }
}
