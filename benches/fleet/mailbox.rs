//! `ask` beside a raw channel: a number goes to another thread and comes back doubled.

use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, Message};
use fleet_actors::mailbox::Mailbox;
use tokio::sync::{mpsc, oneshot};

use super::figure::{Bar, Table, median, setting};

const ASKS: u32 = 100_000;

struct Doubler;

impl Actor for Doubler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1_024);
    }
}

#[derive(Message)]
#[rtype(result = "u32")]
struct Double(u32);

impl Handler<Double> for Doubler {
    type Result = u32;

    fn handle(&mut self, Double(number): Double, _: &mut Self::Context) -> u32 {
        number * 2
    }
}

type Raw = mpsc::Sender<(u32, oneshot::Sender<u32>)>;

pub fn run(table: &mut Table) {
    table.about("mailbox: ask beside a channel with a reply channel, across threads");
    actix::System::new().block_on(async {
        let arbiter = actix::Arbiter::new();
        let door =
            Mailbox::new(Doubler::start_in_arbiter(&arbiter.handle(), |_| Doubler), 1_024, Duration::from_secs(10));
        let (raw, mut asked): (Raw, _) = mpsc::channel(1_024);
        arbiter.spawn(async move {
            while let Some((number, reply)) = asked.recv().await {
                let _ = reply.send(number * 2);
            }
        });
        for at_once in [1, 64] {
            let (mut asks, mut sends) = (Vec::new(), Vec::new());
            for _ in 0..setting("BENCH_ROUNDS", 3) {
                let raw = raw.clone();
                sends.push(
                    rate(at_once, move |number| {
                        let raw = raw.clone();
                        async move {
                            let (reply, answer) = oneshot::channel();
                            raw.send((number, reply)).await.ok()?;
                            answer.await.ok()
                        }
                    })
                    .await,
                );
                let door = door.clone();
                asks.push(
                    rate(at_once, move |number| {
                        let door = door.clone();
                        async move { door.ask(Double(number)).await.ok() }
                    })
                    .await,
                );
            }
            table.beside(format!("ask, {at_once} at once"), "/s", median(asks), median(sends), Bar::None);
        }
        arbiter.stop();
    });
}

async fn rate<F, A>(at_once: u32, ask: F) -> f64
where
    F: Fn(u32) -> A + Clone + 'static,
    A: Future<Output = Option<u32>>,
{
    let began = Instant::now();
    let askers: Vec<_> = (0..at_once)
        .map(|_| {
            let ask = ask.clone();
            actix::spawn(async move {
                for number in 0..ASKS / at_once {
                    assert_eq!(ask(number).await, Some(number * 2));
                }
            })
        })
        .collect();
    for asker in askers {
        asker.await.expect("an asker");
    }
    f64::from(ASKS) / began.elapsed().as_secs_f64()
}
