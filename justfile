# What CI runs, in CI's order.
check:
    scripts/test

# More seeds than CI has time for.
simulate seeds="20000":
    FLEET_SIM_SEEDS={{seeds}} cargo test --release -p fleet-actors --lib simulation -- --nocapture

# Every figure of docs/benchmarks.md, or one of: chats refusals appends mailbox footprint replay.
bench name="":
    scripts/bench {{name}}
